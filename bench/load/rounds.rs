//! The order of the rounds and what is computed from them. Pure.
//!
//! Targets are measured in turn within one run, so that what the machine does beside it meets all
//! of them alike; ratios are taken within a round and only then summed up.

/// The order in which a round measures `count` targets. Orders rotate and every second one is
/// turned around, so that over `2 * count` rounds every target stands in every place equally often
/// and follows every other one in both directions.
pub fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|place| (place + round / 2) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Median and quartiles of paired values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// `None` without values. Quartiles are interpolated between neighbours, as spreadsheets do.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        (!sorted.is_empty()).then(|| Spread { low: at(0.25), median: at(0.5), high: at(0.75) })
    }
}

/// Ratios of `values` to `base`, round by round; rounds in which either is missing or the base is
/// zero say nothing and are left out.
pub fn paired_ratios(values: &[Option<f64>], base: &[Option<f64>]) -> Vec<f64> {
    let pairs = values.iter().zip(base).filter_map(|(value, base)| Some(((*value)?, (*base)?)));
    pairs.filter(|(_, base)| *base > 0.0).map(|(value, base)| value / base).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_stands_in_every_place_equally_often() {
        for count in 1..=5 {
            let mut places = vec![vec![0; count]; count];
            for round in 0..2 * count {
                let order = order(round, count);
                let mut sorted = order.clone();
                sorted.sort();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>());
                for (place, target) in order.into_iter().enumerate() {
                    places[target][place] += 1;
                }
            }
            assert!(places.iter().flatten().all(|&times| times == 2), "{count}: {places:?}");
        }
    }

    #[test]
    fn orders_turn_around_and_rotate() {
        let orders: Vec<_> = (0..4).map(|round| order(round, 3)).collect();
        assert_eq!(orders, [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]]);
    }

    #[test]
    fn quartiles_are_interpolated() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { low: 3.0, median: 3.0, high: 3.0 }));
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Some(Spread { low: 1.75, median: 2.5, high: 3.25 }));
    }

    #[test]
    fn a_missing_round_is_left_out_of_the_pairs() {
        let values = [Some(2.0), None, Some(9.0), Some(1.0), Some(5.0)];
        let base = [Some(4.0), Some(1.0), Some(3.0), None, Some(0.0)];
        assert_eq!(paired_ratios(&values, &base), [0.5, 3.0]);
    }
}
