//! Which instance leads which partition: every instance computes the same even shares from the
//! same survey, so no instance has to assign work.

use std::collections::{BTreeMap, BTreeSet};

use crate::partition::Partition;

/// Why a partition is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// An operator or a circuit breaker has paused it.
    Pause(String),
    /// Its topic was not recognised; only an operator ends that.
    Halt(String),
}

/// The survey: the result of one query of the database.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Live instances and the topics that each reads.
    pub instances: BTreeMap<String, BTreeSet<String>>,
    /// Partitions that have a live leader.
    pub leaders: BTreeMap<Partition, String>,
    /// Partitions that an operator took from an instance, which leaves them to others for a moment.
    pub stepped_down: BTreeMap<Partition, String>,
    /// Partitions that are paused or halted, and why.
    pub barriers: BTreeMap<Partition, Barrier>,
    /// Whether no other live instance has our name.
    pub name_is_ours: bool,
}

/// What an instance has to do to reach its share.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Partitions to hand over, one after another.
    pub give_up: Vec<Partition>,
    /// Partitions without a leader to try, in this order, until `wanted` are acquired.
    pub candidates: Vec<Partition>,
    /// How many of the candidates belong to this instance.
    pub wanted: usize,
}

/// Computes the plan of the instance `me`, which leads `mine`, for topics with so many partitions.
///
/// Topics that are read by the same instances are shared as one, so that the numbers of
/// partitions differ by at most one. Where shares cannot be equal, instances that lead more
/// partitions get the larger ones: then no partition moves unnecessarily.
pub fn plan(
    me: &str,
    mine: &BTreeSet<Partition>,
    topics: &BTreeMap<String, i32>,
    survey: &Survey,
) -> Plan {
    let mut classes: BTreeMap<BTreeSet<&str>, Vec<(&str, i32)>> = BTreeMap::new();
    for (topic, partitions) in topics {
        let mut readers: BTreeSet<&str> = survey
            .instances
            .iter()
            .filter(|(_, topics)| topics.contains(topic))
            .map(|(service_id, _)| service_id.as_str())
            .collect();
        // The survey runs at the same time as our own heartbeat, and may not contain it yet.
        readers.insert(me);
        classes
            .entry(readers)
            .or_default()
            .push((topic, *partitions));
    }
    let mut plan = Plan::default();
    for (readers, topics) in &classes {
        plan_class(&mut plan, me, mine, readers, topics, survey);
    }
    plan
}

fn plan_class(
    plan: &mut Plan,
    me: &str,
    mine: &BTreeSet<Partition>,
    readers: &BTreeSet<&str>,
    topics: &[(&str, i32)],
    survey: &Survey,
) {
    let partitions: Vec<Partition> = topics
        .iter()
        .flat_map(|(topic, count)| {
            (0..*count).map(|number| Partition {
                topic: (*topic).to_owned(),
                number,
            })
        })
        .collect();
    let held = held(me, mine, readers, &partitions, survey);
    let own = held.get(me).copied().unwrap_or_default();
    let quota = quota(me, &held, partitions.len());
    // From whom a partition was taken; an instance without others leads it all the same.
    let former = |p: &Partition| {
        let former = survey.stepped_down.get(p).map(String::as_str);
        former.filter(|former| readers.len() > 1 && readers.contains(former))
    };
    let led = partitions.iter().filter(|p| mine.contains(p));
    // It would only be handed back.
    let led: Vec<&Partition> = led.filter(|p| former(p).is_none()).collect();
    plan.give_up.extend(
        led.iter()
            .rev()
            .take(own.saturating_sub(quota))
            .map(|p| (*p).clone()),
    );

    let mut free: Vec<Partition> = partitions
        .iter()
        .filter(|p| !mine.contains(p) && survey.leaders.get(p).is_none_or(|leader| leader == me))
        .cloned()
        .collect();
    let taken: Vec<Partition> = free
        .extract_if(.., |p| former(p).is_some())
        .filter(|p| takes_over(me, &held, former(p)))
        .collect();
    plan.wanted += taken.len();
    let own = own + taken.len();
    plan.candidates.splice(0..0, taken);
    if !free.is_empty() && own < quota {
        // Each instance begins at another one, so that several that join at once seldom try the same.
        let rank = readers
            .iter()
            .position(|reader| *reader == me)
            .unwrap_or_default();
        let start = rank * free.len() / readers.len();
        free.rotate_left(start);
        plan.wanted += (quota - own).min(free.len());
        plan.candidates.extend(free);
    }
}

/// How many of the partitions each of the readers leads.
fn held<'n>(
    me: &'n str,
    mine: &BTreeSet<Partition>,
    readers: &BTreeSet<&'n str>,
    partitions: &[Partition],
    survey: &'n Survey,
) -> BTreeMap<&'n str, usize> {
    let mut held: BTreeMap<&str, usize> = readers.iter().map(|reader| (*reader, 0)).collect();
    for partition in partitions {
        // This instance knows its own partitions better than a survey that is already old.
        let leader = if mine.contains(partition) {
            Some(me)
        } else {
            survey
                .leaders
                .get(partition)
                .map(String::as_str)
                .filter(|leader| *leader != me)
        };
        if let Some(count) = leader.and_then(|leader| held.get_mut(leader)) {
            *count += 1;
        }
    }
    held
}

/// Whether `me` has to lead what was taken from `former`: the least busy of the others does, beyond its share if
/// necessary.
fn takes_over(me: &str, held: &BTreeMap<&str, usize>, former: Option<&str>) -> bool {
    let others = held.iter().filter(|(name, _)| Some(**name) != former);
    let least_busy = others.min_by_key(|(name, count)| (**count, **name));
    least_busy.map(|(name, _)| *name) == Some(me)
}

/// How many of `partitions` belong to `me`: all get the same, and the first few one more.
fn quota(me: &str, held: &BTreeMap<&str, usize>, partitions: usize) -> usize {
    let mut ranking: Vec<(&str, usize)> =
        held.iter().map(|(name, count)| (*name, *count)).collect();
    ranking.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let rank = ranking
        .iter()
        .position(|(name, _)| *name == me)
        .unwrap_or(ranking.len());
    let (base, extra) = (partitions / ranking.len(), partitions % ranking.len());
    base + usize::from(rank < extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Instances that act on surveys one after another, in random order.
    struct World {
        topics: BTreeMap<String, i32>,
        instances: BTreeMap<String, BTreeSet<String>>,
        leaders: BTreeMap<Partition, String>,
        stepped_down: BTreeMap<Partition, String>,
    }

    impl World {
        fn new(instances: usize, partitions: i32) -> Self {
            let topics = BTreeMap::from([
                ("a".to_owned(), partitions / 2),
                ("b".to_owned(), partitions - partitions / 2),
            ]);
            let read: BTreeSet<String> = topics.keys().cloned().collect();
            Self {
                topics,
                instances: (0..instances)
                    .map(|n| (format!("i{n}"), read.clone()))
                    .collect(),
                leaders: BTreeMap::new(),
                stepped_down: BTreeMap::new(),
            }
        }

        fn mine(&self, me: &str) -> BTreeSet<Partition> {
            self.leaders
                .iter()
                .filter(|(_, leader)| *leader == me)
                .map(|(p, _)| p.clone())
                .collect()
        }

        fn plan(&self, me: &str) -> Plan {
            let survey = Survey {
                instances: self.instances.clone(),
                leaders: self.leaders.clone(),
                stepped_down: self.stepped_down.clone(),
                name_is_ours: true,
                ..Survey::default()
            };
            plan(me, &self.mine(me), &self.topics, &survey)
        }

        fn step(&mut self, me: &str) {
            let plan = self.plan(me);
            for partition in plan.give_up {
                self.leaders.remove(&partition);
            }
            for partition in plan.candidates.into_iter().take(plan.wanted) {
                self.leaders.insert(partition, me.to_owned());
            }
        }

        fn counts(&self) -> Vec<usize> {
            self.instances
                .keys()
                .map(|name| self.mine(name).len())
                .collect()
        }

        fn is_even(&self) -> bool {
            let counts = self.counts();
            let total: i32 = self.topics.values().sum();
            counts.iter().sum::<usize>() == total as usize
                && counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1
        }

        fn settle(&mut self, order: &[usize]) {
            let names: Vec<String> = self.instances.keys().cloned().collect();
            for _ in 0..4 {
                for index in order {
                    self.step(&names[index % names.len()]);
                }
                for name in &names {
                    self.step(name);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn shares_become_even_and_then_nothing_moves(
            instances in 1usize..7, partitions in 0i32..40, order in prop::collection::vec(0usize..7, 0..12),
            joins in 0usize..3, leaves in 0usize..3,
        ) {
            let mut world = World::new(instances, partitions);
            world.settle(&order);
            prop_assert!(world.is_even(), "{:?}", world.counts());

            let read = world.topics.keys().cloned().collect::<BTreeSet<_>>();
            for n in 0..joins {
                world.instances.insert(format!("j{n}"), read.clone());
            }
            for _ in 0..leaves.min(world.instances.len() - 1) {
                let (gone, _) = world.instances.pop_first().unwrap();
                world.leaders.retain(|_, leader| *leader != gone);
            }
            world.settle(&order);
            prop_assert!(world.is_even(), "{:?}", world.counts());

            let before = world.leaders.clone();
            world.settle(&order);
            prop_assert_eq!(before, world.leaders);
        }

        #[test]
        fn what_an_instance_steps_down_from_goes_to_another(
            instances in 1usize..6, partitions in 1i32..20, which in any::<prop::sample::Index>(), order in prop::collection::vec(0usize..7, 0..12),
        ) {
            let mut world = World::new(instances, partitions);
            world.settle(&[]);
            let partition = which.get(&world.leaders.keys().cloned().collect::<Vec<_>>()).clone();
            let former = world.leaders.remove(&partition).unwrap();
            world.stepped_down.insert(partition.clone(), former.clone());
            world.settle(&order);
            prop_assert_eq!(world.leaders[&partition] == former, instances == 1);
            prop_assert!(world.is_even(), "{:?}", world.counts());
            world.stepped_down.clear();
            let before = world.leaders.clone();
            world.settle(&order);
            prop_assert_eq!(before, world.leaders);
        }

        #[test]
        fn quotas_add_up(counts in prop::collection::vec(0usize..20, 1..8), partitions in 0usize..100) {
            let names: Vec<String> = (0..counts.len()).map(|n| format!("i{n}")).collect();
            let held: BTreeMap<&str, usize> = names.iter().map(String::as_str).zip(counts.iter().copied()).collect();
            let quotas: Vec<usize> = names.iter().map(|name| quota(name, &held, partitions)).collect();
            prop_assert_eq!(quotas.iter().sum::<usize>(), partitions);
            prop_assert!(quotas.iter().max().unwrap() - quotas.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_partition_of_a_former_self_is_taken_back() {
        let mut world = World::new(1, 2);
        world.leaders.insert(
            Partition {
                topic: "a".into(),
                number: 0,
            },
            "i0".into(),
        );
        let survey = Survey {
            instances: world.instances.clone(),
            leaders: world.leaders.clone(),
            name_is_ours: true,
            ..Survey::default()
        };
        let plan = plan("i0", &BTreeSet::new(), &world.topics, &survey);
        assert_eq!(plan.wanted, 2);
    }

    #[test]
    fn topics_of_different_readers_are_shared_apart() {
        let read = |topics: &[&str]| {
            topics
                .iter()
                .map(|t| (*t).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let survey = Survey {
            instances: BTreeMap::from([
                ("x".to_owned(), read(&["a", "b"])),
                ("y".to_owned(), read(&["b"])),
            ]),
            leaders: BTreeMap::new(),
            name_is_ours: true,
            ..Survey::default()
        };
        let topics = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 4)]);
        assert_eq!(plan("x", &BTreeSet::new(), &topics, &survey).wanted, 5);
        assert_eq!(
            plan(
                "y",
                &BTreeSet::new(),
                &BTreeMap::from([("b".to_owned(), 4)]),
                &survey
            )
            .wanted,
            2
        );
    }
}
