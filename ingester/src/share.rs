//! Who should lead how many partitions. Every instance computes the same answer from the
//! same survey, so nobody has to be asked.

/// How many of `partitions` the instance `me` should lead.
///
/// `held` names every live instance and how many partitions it leads now. What does not
/// divide evenly goes to those who lead most already, so that as little as possible moves.
pub fn quota(partitions: usize, held: &[(String, usize)], me: &str) -> usize {
    let instances = held.len().max(1);
    let mut ranked: Vec<&(String, usize)> = held.iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rank = ranked
        .iter()
        .position(|(name, _)| name == me)
        .unwrap_or(instances);
    partitions / instances + usize::from(rank < partitions % instances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quotas(partitions: usize, held: &[(String, usize)]) -> Vec<usize> {
        held.iter()
            .map(|(name, _)| quota(partitions, held, name))
            .collect()
    }

    #[test]
    fn a_lone_instance_leads_all() {
        assert_eq!(quota(64, &[("a".into(), 0)], "a"), 64);
    }

    #[test]
    fn the_rest_stays_where_it_is() {
        let held = [
            ("a".to_owned(), 0),
            ("b".to_owned(), 4),
            ("c".to_owned(), 0),
        ];
        assert_eq!(quotas(4, &held), [1, 2, 1]);
    }

    proptest! {
        #[test]
        fn quotas_add_up_differ_by_one_at_most_and_are_stable(partitions in 0usize..200, counts in prop::collection::vec(0usize..50, 1..12)) {
            let held: Vec<(String, usize)> = counts.iter().enumerate().map(|(i, n)| (format!("i{i}"), *n)).collect();
            let first = quotas(partitions, &held);
            prop_assert_eq!(first.iter().sum::<usize>(), partitions);
            prop_assert!(first.iter().max().unwrap() - first.iter().min().unwrap() <= 1);
            let settled: Vec<(String, usize)> = held.iter().zip(&first).map(|((name, _), n)| (name.clone(), *n)).collect();
            prop_assert_eq!(quotas(partitions, &settled), first);
        }
    }
}
