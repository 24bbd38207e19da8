//! Handlers: broken for a while, replaced by what they were, unregistered and registered again.

use super::arena::Arena;
use super::processes::last;
use crate::rng::Rng;

fn family<'a>(arena: &'a Arena, rng: &mut Rng) -> (&'a str, &'a str) {
    let family = rng.pick(&arena.families);
    (&family.name, &arena.handlers[&family.name])
}

fn function(event_type: &str) -> String {
    format!("domain.on_{}", event_type.replace('.', "_"))
}

/// As it was, and not paused.
pub(super) async fn restore(arena: &Arena, event_type: &str) {
    arena.operate(&arena.handlers[event_type]).await;
    // Refused where it is registered already.
    let register = format!(
        "SELECT sluice.register_handler('{event_type}', '{}') WHERE NOT EXISTS (
            SELECT FROM ledger.event_handlers h WHERE h.event_type = '{event_type}')",
        function(event_type)
    );
    arena.operate(&register).await;
    arena
        .operate(&format!("SELECT sluice.resume_handler('{event_type}')"))
        .await;
}

pub async fn break_one(arena: &Arena, rng: &mut Rng) {
    let (event_type, _) = family(arena, rng);
    let event_type = event_type.to_owned();
    arena.say(format!(
        "  the handler of {event_type} breaks on everything"
    ));
    let broken = format!(
        "CREATE OR REPLACE FUNCTION {}(events domain.event[]) RETURNS void LANGUAGE sql AS 'SELECT 1/0 FROM unnest(events)'",
        function(&event_type)
    );
    arena.operate(&broken).await;
    last(rng, 300, 5_000).await;
    restore(arena, &event_type).await;
}

pub async fn replace(arena: &Arena, rng: &mut Rng) {
    let (_, definition) = family(arena, rng);
    for _ in 0..rng.between(1, 5) {
        arena.operate(definition).await;
        last(rng, 10, 500).await;
    }
}

pub async fn unregister(arena: &Arena, rng: &mut Rng) {
    let (event_type, _) = family(arena, rng);
    let event_type = event_type.to_owned();
    arena.say(format!("  no handler for {event_type}"));
    arena
        .operate(&format!("SELECT sluice.unregister_handler('{event_type}')"))
        .await;
    last(rng, 300, 8_000).await;
    restore(arena, &event_type).await;
}
