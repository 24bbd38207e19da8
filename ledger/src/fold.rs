//! The fold: which record owns an identity, and how an event changes balances.
//!
//! This is the whole decision about a decodable event. It depends only on the events before
//! it, so a batch may begin and end anywhere.

use crate::amount::Amount;
use crate::identity::{Identity, PayloadHash};
use crate::verdict::RejectReason;

/// The relation of a record to the identity that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The first record to carry it: it owns it from now on.
    New,
    /// An earlier record with the same payload owns it.
    Duplicate,
    /// An earlier record with another payload owns it.
    Conflict,
}

/// The first record of a batch that carries an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// The identity.
    pub identity: Identity,
    /// The record's payload hash.
    pub payload_hash: PayloadHash,
    /// The record's index in the batch, from 0.
    pub record: usize,
}

/// The first carrier of each identity of a batch, sorted by identity: the order in which
/// identities must be claimed, so that two partitions cannot deadlock.
///
/// `carried` has one entry per record in offset order, `None` for a dead one.
pub fn first_carriers(carried: &[Option<(Identity, PayloadHash)>]) -> Vec<Carrier> {
    let mut carriers: Vec<Carrier> = carried
        .iter()
        .enumerate()
        .filter_map(|(record, carried)| {
            carried.map(|(identity, payload_hash)| Carrier {
                identity,
                payload_hash,
                record,
            })
        })
        .collect();
    carriers.sort_unstable_by_key(|carrier| (carrier.identity, carrier.record));
    carriers.dedup_by_key(|carrier| carrier.identity);
    carriers
}

/// The relation of each record of a batch to its identity, `None` for a dead one.
///
/// `first` comes from [`first_carriers`]; `owned` returns the payload hash of the record before
/// this batch that owns an identity.
pub fn claims(
    carried: &[Option<(Identity, PayloadHash)>],
    first: &[Carrier],
    owned: impl Fn(&Identity) -> Option<PayloadHash>,
) -> Vec<Option<Claim>> {
    let mut claims = vec![None; carried.len()];
    // By identity, not by record: each is looked up once, however often it is carried.
    for carrier in first {
        if owned(&carrier.identity).is_none() {
            claims[carrier.record] = Some(Claim::New);
        }
    }
    for (record, carried) in carried.iter().enumerate() {
        let Some((identity, payload_hash)) = carried else {
            continue;
        };
        if claims[record].is_some() {
            continue;
        }
        let owner = owned(identity).or_else(|| {
            let at = first
                .binary_search_by_key(identity, |carrier| carrier.identity)
                .ok()?;
            Some(first[at].payload_hash)
        });
        claims[record] = Some(if owner == Some(*payload_hash) {
            Claim::Duplicate
        } else {
            Claim::Conflict
        });
    }
    claims
}

/// A balance: the amount that may be spent, and the amount that is reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The amount that may be spent.
    pub available: Amount,
    /// The amount that is reserved.
    pub frozen: Amount,
}

/// One change of an event, its account replaced by the index of its balance in the book.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// Index into the book.
    pub slot: u32,
    /// Added to `available`.
    pub available_delta: Amount,
    /// Added to `frozen`.
    pub frozen_delta: Amount,
}

/// Decides one event and, if it is applied, changes the book.
///
/// Each leg applies to the balances that the legs before it left. All legs apply or none: after
/// a rejection the book is unchanged. `after` is filled with one balance per leg: the one after
/// it or, for a rejected event, the one before the event.
///
/// A duplicate was decided earlier: it changes nothing, and `after` stays empty.
///
/// # Panics
/// If a leg's slot lies outside the book.
pub fn apply_event(
    book: &mut [Balance],
    legs: &[Leg],
    claim: Claim,
    after: &mut Vec<Balance>,
) -> Result<(), RejectReason> {
    after.clear();
    match claim {
        Claim::Duplicate => Ok(()),
        Claim::Conflict => {
            after.extend(legs.iter().map(|leg| book[leg.slot as usize]));
            Err(RejectReason::EventIdConflict)
        }
        Claim::New => apply_legs(book, legs, after),
    }
}

fn apply_legs(
    book: &mut [Balance],
    legs: &[Leg],
    after: &mut Vec<Balance>,
) -> Result<(), RejectReason> {
    // Until the event is known to apply, `after` has the balance that each leg met.
    for (index, leg) in legs.iter().enumerate() {
        let met = book[leg.slot as usize];
        match apply_leg(met, leg) {
            Ok(balance) => {
                after.push(met);
                book[leg.slot as usize] = balance;
            }
            Err(reason) => {
                for (leg, met) in legs[..index].iter().zip(after.iter()).rev() {
                    book[leg.slot as usize] = *met;
                }
                after.clear();
                after.extend(legs.iter().map(|leg| book[leg.slot as usize]));
                return Err(reason);
            }
        }
    }
    for (leg, met) in legs.iter().zip(after.iter_mut()) {
        // The balance after a leg is the balance that it met plus its deltas.
        met.available = met.available.saturating_add(leg.available_delta);
        met.frozen = met.frozen.saturating_add(leg.frozen_delta);
    }
    Ok(())
}

fn apply_leg(met: Balance, leg: &Leg) -> Result<Balance, RejectReason> {
    let left = Balance {
        available: met.available.saturating_add(leg.available_delta),
        frozen: met.frozen.saturating_add(leg.frozen_delta),
    };
    if left.available.is_negative() {
        Err(RejectReason::InsufficientBalance)
    } else if left.frozen.is_negative() {
        Err(RejectReason::InsufficientFrozen)
    } else if left.available > Amount::MAX || left.frozen > Amount::MAX {
        Err(RejectReason::BalanceOverflow)
    } else {
        Ok(left)
    }
}
