//! The digests that both ends of the COPY take: stable, and different where rows differ.

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::contract::{Checksum, StagedRow, record_fingerprint, row_digest};
use ledger::event::Change;
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::{DeadReason, RejectReason, Verdict};
use proptest::prelude::*;

fn change() -> Change {
    Change {
        key: AccountKey {
            account_id: 1,
            shard_id: 2,
            currency: Currency::new("USD").expect("a currency"),
        },
        available_delta: Amount::from_units(3),
        frozen_delta: Amount::from_units(-4),
    }
}

fn row() -> StagedRow<'static> {
    StagedRow {
        kafka_offset: 7,
        change_no: 0,
        event_id: Some(b"a"),
        source: None,
        identity: Some(Identity::of(None, "a")),
        payload_hash: Some(PayloadHash::of(b"p")),
        change: Some(change()),
        error_code: None,
        payload: None,
    }
}

fn dead(payload: Option<&'static [u8]>) -> StagedRow<'static> {
    StagedRow {
        identity: None,
        payload_hash: None,
        change: None,
        error_code: Some(b"INVALID_EVENT"),
        payload,
        ..row()
    }
}

/// Both ends may be of different builds for a while: these figures must never change.
#[test]
fn digests_are_stable() {
    assert_eq!(row_digest(&row()), DIGEST_OF_ROW);
    assert_eq!(row_digest(&dead(Some(b"{"))), DIGEST_OF_DEAD_ROW);
    let mut checksum = Checksum::default();
    assert_eq!(checksum.as_i64(), 0, "an empty batch");
    checksum.add(&row());
    checksum.add(&dead(None));
    assert_eq!(checksum.as_i64(), CHECKSUM_OF_BOTH);
    assert_eq!(
        u128::from_be_bytes(record_fingerprint(5, -1, None, Some(b"p"))),
        FINGERPRINT
    );
}

const DIGEST_OF_ROW: u64 = 0x7f36_23dd_4d50_deae;
const DIGEST_OF_DEAD_ROW: u64 = 0x79f_0de1_0305_d48c;
const CHECKSUM_OF_BOTH: i64 = -5_122_261_099_022_342_168;
const FINGERPRINT: u128 = 0x73d4_a4d3_7b07_8b64_8aca_70f7_a5ea_f979;

#[test]
fn every_column_counts() {
    let mut rows = vec![row(), dead(None), dead(Some(b"")), dead(Some(b"x"))];
    rows.push(StagedRow {
        kafka_offset: 8,
        ..row()
    });
    rows.push(StagedRow {
        change_no: 1,
        ..row()
    });
    rows.push(StagedRow {
        event_id: Some(b"b"),
        ..row()
    });
    rows.push(StagedRow {
        event_id: Some(b""),
        ..row()
    });
    rows.push(StagedRow {
        source: Some(b"a"),
        ..row()
    });
    rows.push(StagedRow {
        event_id: None,
        ..row()
    });
    rows.push(StagedRow {
        identity: Some(Identity::of(None, "b")),
        ..row()
    });
    rows.push(StagedRow {
        payload_hash: Some(PayloadHash::of(b"q")),
        ..row()
    });
    rows.push(StagedRow {
        error_code: Some(b"MALFORMED_JSON"),
        ..dead(None)
    });
    let mut key = change().key;
    key.account_id = 9;
    rows.push(StagedRow {
        change: Some(Change { key, ..change() }),
        ..row()
    });
    key = change().key;
    key.shard_id = 9;
    rows.push(StagedRow {
        change: Some(Change { key, ..change() }),
        ..row()
    });
    key = change().key;
    key.currency = Currency::new("USD0").expect("a currency");
    rows.push(StagedRow {
        change: Some(Change { key, ..change() }),
        ..row()
    });
    rows.push(StagedRow {
        change: Some(Change {
            available_delta: Amount::ZERO,
            ..change()
        }),
        ..row()
    });
    rows.push(StagedRow {
        change: Some(Change {
            frozen_delta: Amount::ZERO,
            ..change()
        }),
        ..row()
    });
    let mut digests: Vec<u64> = rows.iter().map(row_digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), rows.len());
}

#[test]
fn fingerprints_tell_records_apart() {
    let fingerprints = [
        record_fingerprint(5, 1, None, Some(b"p")),
        record_fingerprint(6, 1, None, Some(b"p")),
        record_fingerprint(5, 2, None, Some(b"p")),
        record_fingerprint(5, 1, Some(b""), Some(b"p")),
        record_fingerprint(5, 1, Some(b"p"), None),
        record_fingerprint(5, 1, Some(b"p"), Some(b"")),
        record_fingerprint(5, 1, None, Some(b"")),
        record_fingerprint(5, 1, None, None),
    ];
    for (index, one) in fingerprints.iter().enumerate() {
        assert!(!fingerprints[..index].contains(one));
    }
}

#[test]
fn spellings_read_back() {
    for verdict in Verdict::ALL {
        assert_eq!(Verdict::parse(verdict.as_str()), Some(*verdict));
    }
    for reason in RejectReason::ALL {
        assert_eq!(RejectReason::parse(reason.as_str()), Some(*reason));
    }
    for reason in DeadReason::ALL {
        assert_eq!(DeadReason::parse(reason.as_str()), Some(*reason));
    }
    assert_eq!(Verdict::parse("applied"), None);
}

#[test]
fn keys_sort_as_the_database_does() {
    let key = |account_id, shard_id, currency| AccountKey {
        account_id,
        shard_id,
        currency: Currency::new(currency).expect("a currency"),
    };
    let sorted = [
        key(-5, 0, "USD"),
        key(1, -1, "USD"),
        key(1, 0, "A2"),
        key(1, 0, "AB"),
        key(1, 0, "USD"),
        key(1, 0, "USD0"),
        key(1, 0, "USDC"),
        key(1, 1, "A0"),
        key(2, -9, "A0"),
    ];
    assert!(sorted.is_sorted());
    for code in ["", "U", "usd", "US D", "USD\n", "UUUUUUUUUUUUUUUUU", "ÄB"] {
        assert!(Currency::new(code).is_none(), "{code:?}");
    }
    assert_eq!(
        Currency::new("UUUUUUUUUUUUUUUU").map(|code| code.as_str().len()),
        Some(16)
    );
}

proptest! {
    #[test]
    fn checksums_of_parts_make_the_whole(digests in prop::collection::vec(any::<u64>(), 0..50), cut in any::<prop::sample::Index>()) {
        let sum = |digests: &[u64]| {
            let mut sum = Checksum::default();
            digests.iter().for_each(|digest| sum.add_digest(*digest));
            sum
        };
        let (left, right) = digests.split_at(cut.index(digests.len() + 1));
        let mut whole = sum(left);
        whole.append(sum(right), right.len() as u32);
        prop_assert_eq!(whole, sum(&digests));
        let mut backwards = digests.clone();
        backwards.reverse();
        prop_assert_eq!(sum(&backwards) == sum(&digests), backwards == digests, "the order counts");
    }
}
