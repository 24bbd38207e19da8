//! What librdkafka and the brokers say, in plain words.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::tls;

/// A request that failed, or a client that could not be made.
pub fn of(error: &KafkaError) -> String {
    match (error.rdkafka_error_code(), error) {
        (Some(code), _) => of_code(code),
        (None, KafkaError::Canceled) => "the client was closed meanwhile".to_owned(),
        (None, KafkaError::ClientCreation(reason)) => tls::words(reason),
        (None, KafkaError::ClientConfig(_, reason, ..)) => reason.clone(),
        (None, KafkaError::AdminOp(code)) => of_code(*code),
        (None, KafkaError::AdminOpCreation(reason)) => of_text(reason),
        (None, error) => of_text(&error.to_string()),
    }
}

/// One of librdkafka's own errors, or of the brokers'.
pub fn of_code(code: Code) -> String {
    let known = match code {
        Code::BrokerTransportFailure => "no connection to the broker",
        Code::AllBrokersDown => "no connection to any broker",
        Code::Resolve => "the host name of the broker is not known",
        Code::OperationTimedOut | Code::RequestTimedOut => "no answer in time",
        Code::MessageTimedOut => "the brokers did not take the record in time",
        Code::SSL => "the TLS handshake failed",
        Code::Authentication | Code::SaslAuthenticationFailed => "the login is refused",
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "there is no such topic or partition"
        }
        Code::UnknownTopicId => "the topic was deleted, or created again",
        Code::LeaderNotAvailable => "no broker leads the partition at present",
        Code::NotLeaderForPartition | Code::ReplicaNotAvailable => {
            "another broker leads the partition by now"
        }
        Code::OffsetOutOfRange => "the broker does not have this offset",
        Code::MessageSizeTooLarge => "the record is larger than the topic takes",
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "fewer replicas are in sync than the topic demands"
        }
        Code::KafkaStorageError => "the broker cannot use its disk",
        Code::QueueFull => "more records wait to be sent than the client holds",
        Code::TopicAuthorizationFailed => "the brokers' ACLs do not allow this login the topic",
        Code::GroupAuthorizationFailed => "the brokers' ACLs do not allow this login the group",
        Code::ClusterAuthorizationFailed => "the brokers' ACLs do not allow this login to do that",
        Code::InvalidReplicationFactor => "there are fewer brokers than copies are wanted",
        Code::TopicAlreadyExists => "the topic is there already",
        Code::PolicyViolation => "a policy of the brokers forbids it",
        Code::UnsupportedVersion => "the brokers are too old for that",
        other => return of_text(&other.to_string()),
    };
    known.to_owned()
}

/// A text of librdkafka's own, without the names that only its sources know.
fn of_text(text: &str) -> String {
    // As in `InvalidTimestamp (Broker: Invalid timestamp)`.
    let described = text.rsplit_once(" (").map_or(text, |(_, words)| words);
    let described = described.trim_end_matches(')');
    let words = described.rsplit(": ").next().unwrap_or(described);
    format!("Kafka said: {words}")
}

/// Which broker a line of librdkafka's log is about: it begins with `sasl_ssl://host:port/bootstrap: `.
pub fn broker(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("://")?;
    let end = rest.find(['/', ' '])?;
    Some(rest[..end].trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_kafka_is_told_by_the_name_that_librdkafka_has_for_it() {
        for (error, told) in [
            (
                KafkaError::MetadataFetch(Code::BrokerTransportFailure),
                "no connection to the broker",
            ),
            (
                KafkaError::Global(Code::InvalidTimestamp),
                "Kafka said: Invalid timestamp",
            ),
            (
                KafkaError::AdminOp(Code::PolicyViolation),
                "a policy of the brokers forbids it",
            ),
            (KafkaError::Canceled, "the client was closed meanwhile"),
        ] {
            assert_eq!(of(&error), told);
        }
    }

    #[test]
    fn a_line_of_the_log_names_its_broker() {
        let line = "sasl_ssl://localhost:9093/bootstrap: SASL authentication error (after 3ms in state AUTH_REQ)";
        assert_eq!(broker(line), Some("localhost:9093"));
        let line = "[thrd:ssl://b1:9092/1]: ssl://b1:9092/1: Disconnected";
        assert_eq!(broker(line), Some("b1:9092"));
        assert_eq!(broker("3/3 brokers are down"), None);
    }
}
