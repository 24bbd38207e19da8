//! What both sides must agree on: fingerprints, spellings, the order of keys.

use ledger::account::{AccountKey, Currency};
use ledger::contract::record_fingerprint;
use ledger::verdict::{DeadReason, RejectReason, Verdict};

/// Both ends may be of different builds for a while: this figure must never change.
#[test]
fn fingerprints_are_stable() {
    assert_eq!(
        u128::from_be_bytes(record_fingerprint(5, -1, None, Some(b"p"))),
        0x73d4_a4d3_7b07_8b64_8aca_70f7_a5ea_f979
    );
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
