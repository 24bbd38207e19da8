//! A small random generator of our own: the same seed gives the same workload on every
//! machine and with every version of every crate.

/// SplitMix64 (Steele, Lea, Flood 2014): one multiplication chain per number, no bad seeds.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream of the same seed, for a partition or a thread.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    #[allow(clippy::should_implement_trait)] // endless, so an Option would only be in the way
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks 0, 1, 2 … with probability in proportion to 1 / (rank + 1)^exponent.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|value| *value /= sum);
        Self(cumulative)
    }

    pub fn sample(&self, rng: &mut Rng) -> usize {
        let unit = rng.unit();
        self.0
            .partition_point(|value| *value <= unit)
            .min(self.0.len() - 1)
    }
}

/// The seed of this run: `SLUICE_SEED`, or the one that is in the sources. Printed, so that a failure can be had again.
pub fn seed() -> u64 {
    let seed = std::env::var("SLUICE_SEED").map_or(20_261_121, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SLUICE_SEED must be a whole number, not {text:?}"))
    });
    eprintln!("seed {seed} (SLUICE_SEED={seed} repeats this workload)");
    seed
}
