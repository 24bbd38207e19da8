//! The search: every reachable state, breadth first, so that a shortest sequence of steps shows a broken guarantee.

use std::fmt;

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use crate::invariants::{self, Violation};
use crate::state::State;
use crate::steps::{self, Step, World};

/// The result of a search.
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// Steps to the most distant state.
    pub depth: usize,
    /// False when it ended at its limit or at a violation: then it proves nothing.
    pub is_complete: bool,
    pub violation: Option<Counterexample>,
    /// The steps to a state from which no drained partition can be reached, although one instance is not frozen.
    pub stuck: Option<Counterexample>,
}

/// A shortest sequence of steps to a forbidden state.
pub struct Counterexample {
    pub violation: Option<Violation>,
    pub topic: String,
    pub steps: Vec<Step>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  the topic holds {}", self.topic)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:2}. {step}", number + 1)?;
        }
        match self.violation {
            Some(violation) => write!(f, "  => {violation}"),
            None => write!(f, "  => from here nothing leads to a drained partition"),
        }
    }
}

/// The step by which a state was first reached.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    step: Option<Step>,
}

struct Search {
    states: IndexSet<State, FxBuildHasher>,
    origins: Vec<Origin>,
    /// For each progress step, the state after and the one before it.
    progress: Vec<(u32, u32)>,
}

impl Search {
    fn begin(world: &World) -> Self {
        let mut search = Self {
            states: IndexSet::default(),
            origins: Vec::new(),
            progress: Vec::new(),
        };
        for topic in &world.topics {
            search.reach(State::new(topic), 0, None);
        }
        search
    }

    fn reach(&mut self, state: State, parent: u32, step: Option<Step>) -> u32 {
        let (at, is_new) = self.states.insert_full(state);
        if is_new {
            self.origins.push(Origin { parent, step });
        }
        at as u32
    }

    fn way_to(&self, at: u32, last: Option<Step>, violation: Option<Violation>) -> Counterexample {
        let mut steps: Vec<Step> = last.into_iter().collect();
        let mut at = at;
        while let Origin {
            parent,
            step: Some(step),
        } = self.origins[at as usize]
        {
            steps.push(step);
            at = parent;
        }
        steps.reverse();
        let first = &self.states[at as usize];
        let topic = format!("{:?}", &first.records[..first.count as usize]);
        Counterexample {
            violation,
            topic,
            steps,
        }
    }

    /// Walks back from the drained states; the states that it does not reach are stuck.
    fn stuck(&mut self) -> Option<Counterexample> {
        self.progress.sort_unstable();
        let mut leads_on = vec![false; self.states.len()];
        let mut open: Vec<u32> = Vec::new();
        for (at, state) in self.states.iter().enumerate() {
            if state.is_drained() {
                leads_on[at] = true;
                open.push(at as u32);
            }
        }
        while let Some(after) = open.pop() {
            let first = self.progress.partition_point(|edge| edge.0 < after);
            let edges = self.progress[first..].iter();
            for (_, before) in edges.take_while(|edge| edge.0 == after) {
                if !std::mem::replace(&mut leads_on[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        let stuck = leads_on.iter().enumerate().position(|(at, leads_on)| {
            !leads_on
                && self.states[at]
                    .instances
                    .iter()
                    .any(|instance| !instance.frozen)
        });
        stuck.map(|at| self.way_to(at as u32, None, None))
    }
}

/// Visits every state of `world`, until a guarantee is broken or there are more states than `limit`.
pub fn explore(world: &World, limit: usize) -> Explored {
    let mut search = Search::begin(world);
    let (mut transitions, mut depth) = (0, 0);
    let mut found = Vec::new();
    let mut violation = None;
    let mut level_ends = search.states.len();
    let mut at = 0;
    'search: while at < search.states.len() && search.states.len() <= limit {
        if at == level_ends {
            depth += 1;
            level_ends = search.states.len();
        }
        let state = search.states[at];
        steps::next(world, &state, &mut found);
        for (step, reached) in found.drain(..) {
            transitions += 1;
            let checked = reached.and_then(|state| invariants::check(&state).map(|()| state));
            match checked {
                Ok(after) => {
                    let after = search.reach(after, at as u32, Some(step));
                    if step.is_progress() {
                        search.progress.push((after, at as u32));
                    }
                }
                Err(broken) => {
                    violation = Some(search.way_to(at as u32, Some(step), Some(broken)));
                    break 'search;
                }
            }
        }
        at += 1;
    }
    let is_complete = violation.is_none() && at == search.states.len();
    Explored {
        states: search.states.len(),
        transitions,
        depth,
        is_complete,
        violation,
        stuck: if is_complete { search.stuck() } else { None },
    }
}
