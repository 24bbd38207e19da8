//! What metrics are told apart by, and how a counter is called.

use std::fmt;

use ledger::verdict::{RejectReason, Verdict};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::postgres::error::Consequence;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Topic {
    pub(super) topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Decided {
    pub(super) topic: String,
    pub(super) verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Rejected {
    pub(super) topic: String,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Failed {
    pub(super) topic: String,
    pub(super) consequence: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Phase {
    pub(super) phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Change {
    pub(super) change: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct PartitionLabel {
    pub(super) topic: String,
    pub(super) partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StateLabel {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StatusLabel {
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Letters {
    pub(super) topic: String,
    pub(super) code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Writer {
    pub(super) kind: String,
    pub(super) writer: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Version {
    pub(super) version: &'static str,
}

/// A counter under the name that Prometheus shows: OpenMetrics would leave its `_total` out of HELP and TYPE.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(pub(super) Counter);

impl EncodeMetric for Total {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Total {
    const TYPE: MetricType = MetricType::Counter;
}

pub(super) fn decided(topic: &str, verdict: Verdict) -> Decided {
    Decided {
        topic: topic.to_owned(),
        verdict: verdict.as_str(),
    }
}

pub(super) fn rejected(topic: &str, reason: RejectReason) -> Rejected {
    Rejected {
        topic: topic.to_owned(),
        reason: reason.as_str(),
    }
}

pub(super) fn failed(topic: &str, consequence: Consequence) -> Failed {
    Failed {
        topic: topic.to_owned(),
        consequence: consequence.as_str(),
    }
}
