//! Each world keeps its guarantees in every state; without any one safeguard there is a counterexample.

use model::defects::Defect;
use model::invariants::Violation;
use model::search::{Explored, explore};
use model::state::Deed::{Correct, Discard, Replay, Restore};
use model::state::Identity::{A, B};
use model::state::Payload::{self, Garbage};
use model::steps::{Fault, World};

/// Far more states than any of these worlds has: a search that reaches it has failed.
const LIMIT: usize = 5_000_000;

const FIRST: Payload = Payload::new(A, 1);
/// The same identity with other bytes.
const SAME_ID: Payload = Payload::new(A, 2);
const OTHER_ID: Payload = Payload::new(B, 4);
const OTHER_ID_AGAIN: Payload = Payload::new(B, 8);

/// Two instances and everything that can happen to processes, connections and leases.
fn leadership() -> World {
    World {
        topics: vec![vec![FIRST, FIRST, OTHER_ID], vec![FIRST, SAME_ID, OTHER_ID]],
        instances: 2,
        faults: vec![Fault::Freeze, Fault::Crash, Fault::Cut, Fault::Expiry],
        ..World::default()
    }
}

/// One leader and two operators at once on one letter.
fn one_letter() -> World {
    World {
        topics: vec![vec![FIRST], vec![Garbage]],
        operators: 2,
        ..letters()
    }
}

/// Two operators who replay the same letter.
fn two_replays() -> World {
    World {
        deeds: vec![Replay],
        ..one_letter()
    }
}

/// One leader and an operator, with later records that carry the letter's identities or become letters as well.
fn letters() -> World {
    World {
        topics: vec![
            vec![FIRST, FIRST],
            vec![FIRST, SAME_ID],
            vec![FIRST, OTHER_ID],
            vec![FIRST, OTHER_ID_AGAIN],
            vec![Garbage, FIRST],
            vec![Garbage, SAME_ID],
        ],
        instances: 1,
        operators: 1,
        deeds: vec![
            Replay,
            Correct(SAME_ID),
            Correct(OTHER_ID),
            Discard,
            Restore,
        ],
        faults: vec![Fault::Handler, Fault::Unregister, Fault::Reader],
        ..World::default()
    }
}

/// One leader and two operators on two letters.
fn two_letters() -> World {
    World {
        topics: vec![vec![FIRST, FIRST], vec![FIRST, OTHER_ID]],
        operators: 2,
        deeds: vec![Replay, Correct(OTHER_ID), Discard],
        faults: vec![Fault::Handler],
        ..letters()
    }
}

/// Two instances and an operator, while leadership changes hands.
fn taken_over() -> World {
    World {
        topics: vec![vec![FIRST]],
        instances: 2,
        operators: 1,
        deeds: vec![Replay, Correct(OTHER_ID), Discard],
        faults: vec![Fault::Freeze, Fault::Expiry, Fault::Handler],
        ..World::default()
    }
}

/// The same, while answers are lost.
fn cut_off() -> World {
    World {
        deeds: vec![Correct(OTHER_ID)],
        faults: vec![Fault::Cut, Fault::Expiry, Fault::Handler],
        ..taken_over()
    }
}

fn with(world: World, defects: &[Defect]) -> World {
    World {
        defects: defects.to_vec(),
        ..world
    }
}

fn holds_everywhere(name: &str, world: &World, at_least: usize) -> Explored {
    let explored = explore(world, LIMIT);
    println!(
        "{name}: {} states, {} transitions, depth {}",
        explored.states, explored.transitions, explored.depth
    );
    if let Some(counterexample) = explored.violation.as_ref().or(explored.stuck.as_ref()) {
        panic!("{name}:\n{counterexample}");
    }
    assert!(explored.is_complete, "{name}: the search met its limit");
    assert!(
        explored.states >= at_least,
        "{name}: {} states are too few to show anything",
        explored.states
    );
    explored
}

fn is_found(defects: &[Defect], world: World, expected: &[Violation]) {
    let explored = explore(&with(world, defects), LIMIT);
    let found = explored.violation.expect("a counterexample");
    println!("{defects:?}, after {} states:\n{found}", explored.states);
    let violation = found.violation.expect("a broken guarantee");
    assert!(
        expected.contains(&violation),
        "{violation:?} was not expected"
    );
}

#[test]
fn leadership_changes_hands_without_a_broken_guarantee() {
    holds_everywhere("leadership", &leadership(), 100_000);
}

#[test]
fn operators_and_the_leader_meet_at_a_letter_without_a_broken_guarantee() {
    holds_everywhere("one letter", &one_letter(), 50_000);
}

#[test]
fn letters_and_later_records_share_identities_without_a_broken_guarantee() {
    holds_everywhere("letters", &letters(), 100_000);
}

#[test]
fn operators_work_on_two_letters_without_a_broken_guarantee() {
    holds_everywhere("two letters", &two_letters(), 100_000);
}

#[test]
fn letters_are_handled_while_leadership_changes_hands() {
    holds_everywhere("taken over", &taken_over(), 50_000);
}

#[test]
fn letters_are_handled_while_answers_are_lost() {
    holds_everywhere("cut off", &cut_off(), 50_000);
}

/// One test for each safeguard that is removed.
macro_rules! found {
    ($($name:ident: $world:ident without $defect:ident breaks $($violation:ident)|+;)+) => {
        $(#[test]
        fn $name() {
            is_found(&[Defect::$defect], $world(), &[$(Violation::$violation),+]);
        })+

        #[test]
        fn every_defect_has_its_test() {
            let tested = [$(Defect::$defect),+, Defect::NobodyIsEnded];
            for defect in Defect::ALL {
                assert!(tested.contains(&defect), "{defect:?}");
            }
        }
    };
}

found! {
    a_fence_without_token: leadership without NoTokenCheck breaks FormerLeaderWrote;
    a_fence_without_offset: leadership without NoOffsetCheck breaks RepeatOfItself | SecondVerdict;
    a_token_that_is_read_and_then_written: leadership without ReadThenWrite breaks FormerLeaderWrote | RepeatOfItself;
    a_lease_by_the_clock: leadership without LeaseByClock breaks FormerLeaderWrote;
    an_answer_that_is_guessed: leadership without AnswerGuessed breaks BelievedNotCommitted;
    an_acquire_that_does_not_wait: leadership without AcquireDoesNotWait breaks FormerLeaderWrote;
    a_release_that_keeps_the_lease: leadership without ReleaseKeepsLease breaks FormerLeaderWrote;
    a_retry_without_the_fence: taken_over without RetryWithoutFence breaks FormerLeaderWrote;
    a_letter_that_is_not_looked_at_again: two_replays without NoSecondLook breaks RepeatOfItself | AppliedTwice;
    answers_from_a_list_that_is_old: one_letter without AnswersFromList breaks RecordedNotDone;
    a_discard_that_does_not_ask: one_letter without DiscardUnasked breaks RecordedNotDone | VerdictAndLetterDiffer;
    a_restore_that_does_not_ask: one_letter without RestoreUnasked breaks RecordedNotDone;
    a_correction_that_keeps_its_identity_and_not_its_payload:
        letters without CorrectionForgotten breaks IdentityAndLetterDiffer | WrongPayloadApplied;
    a_retry_of_the_payload_that_was_declared_wrong: letters without RetryTakesOriginal breaks WrongPayloadApplied;
    a_correction_that_keeps_the_former_identity: letters without FormerIdentityKept breaks IdentityAndLetterDiffer | IdentityAndVerdictDiffer;
    a_discard_that_gives_the_identity_back: letters without DiscardFreesIdentity breaks IdentityAndLetterDiffer;
    a_letter_without_handler_that_becomes_a_balance_event: letters without NoHandlerIsABalance breaks TriedByAnother;
    an_owner_that_is_inferred_from_the_error_code: letters without OwnerByErrorCode breaks RepeatOfItself;
    a_balance_that_is_read_before_the_lock: two_letters without BalanceReadBeforeLock breaks BalanceDiffers;
}

#[test]
fn a_frozen_leader_whose_transaction_nobody_ends() {
    let world = with(leadership(), &[Defect::NobodyIsEnded]);
    let explored = explore(&world, LIMIT);
    assert!(explored.is_complete && explored.violation.is_none());
    println!("{}", explored.stuck.expect("a partition that stands still"));
}
