//! How many requests a second each caller may make.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Above so many callers, those are forgotten that could make a full burst again.
const TIDY_AT: usize = 4_096;

/// Who is counted as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Who has this token.
    Token(String),
    /// Who comes from this address. An IPv6 network of 64 bits is one, as a single machine has all of it.
    Address(IpAddr),
}

impl Who {
    /// Who comes from there.
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self::Address(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            address @ IpAddr::V4(_) => Self::Address(address),
        }
    }
}

/// A rate for each caller, with bursts above it, by the generic cell rate algorithm: a caller is ahead of its rate by the time
/// that stands here, and may be so by the length of a burst.
#[derive(Debug)]
pub struct Rate {
    /// Between two requests at the very rate.
    interval: Duration,
    /// How far a caller may be ahead.
    burst: Duration,
    /// When each caller would be back at its rate.
    levels: Mutex<HashMap<Who, Instant>>,
}

impl Rate {
    /// So many requests a second, of which the first `burst` may come at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: interval * burst.max(1), levels: Mutex::default() }
    }

    /// Counts a request that is made `now`, or says after which time there is room for it.
    pub fn take(&self, who: &Who, now: Instant) -> Result<(), Duration> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.len() >= TIDY_AT && !levels.contains_key(who) {
            levels.retain(|_, level| *level > now);
        }
        let level = self.level_after(&levels, who, now)?;
        levels.insert(who.clone(), level);
        Ok(())
    }

    /// Says the same and counts nothing.
    pub fn room(&self, who: &Who, now: Instant) -> Result<(), Duration> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        self.level_after(&levels, who, now).map(drop)
    }

    fn level_after(&self, levels: &HashMap<Who, Instant>, who: &Who, now: Instant) -> Result<Instant, Duration> {
        let next = levels.get(who).map_or(now, |level| (*level).max(now)) + self.interval;
        match (next - now).checked_sub(self.burst) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(address: &str) -> Who {
        Who::at(address.parse().unwrap())
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let rate = Rate::new(10, 3);
        let (one, other, began) = (who("192.0.2.1"), who("192.0.2.2"), Instant::now());
        for _ in 0..3 {
            assert_eq!(rate.take(&one, began), Ok(()));
        }
        assert_eq!(rate.room(&one, began), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(&one, began), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(&other, began), Ok(()), "others are not held up");
        let later = began + Duration::from_millis(100);
        assert_eq!(rate.take(&one, later), Ok(()));
        assert_eq!(rate.take(&one, later), Err(Duration::from_millis(100)));
        let much_later = began + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(rate.take(&one, much_later), Ok(()));
        }
        assert!(rate.take(&one, much_later).is_err(), "a long rest saves up one burst");
    }

    #[test]
    fn addresses_of_one_machine_are_one() {
        assert_eq!(who("2001:db8:1:2:3::1"), who("2001:db8:1:2:ffff::9"));
        assert_ne!(who("2001:db8:1:2::1"), who("2001:db8:1:3::1"));
        assert_eq!(who("::ffff:192.0.2.1"), who("192.0.2.1"));
    }

    #[test]
    fn callers_are_forgotten() {
        let rate = Rate::new(10, 3);
        let began = Instant::now();
        for number in 0..TIDY_AT as u32 {
            rate.take(&Who::at(IpAddr::V4(number.into())), began).unwrap();
        }
        rate.take(&who("192.0.2.1"), began + Duration::from_secs(1)).unwrap();
        assert_eq!(rate.levels.lock().unwrap().len(), 1);
    }
}
