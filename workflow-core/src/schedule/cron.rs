//! Cron expressions: which times they mean.

use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use keepstep_storage::Timestamp;

use crate::error::{Error, Result};

/// A parsed expression.
#[derive(Debug)]
pub(super) struct Cron(Crontab);

impl Cron {
    /// Reads five fields, and a time zone perhaps.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let parsed = cronexpr::parse_crontab_with(text, options);
        parsed.map(Self).map_err(|error| Error::InvalidSchedule {
            cron: text.to_owned(),
            message: error.to_string(),
        })
    }

    /// The first time after this one; `None` if there is none.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let micros = i64::try_from(after.0).ok()?;
        let after = MakeTimestamp::from_microsecond(micros).ok()?;
        let next = self.0.find_next(after).ok()?;
        u64::try_from(next.timestamp().as_microsecond())
            .ok()
            .map(Timestamp)
    }

    /// The times from `first`, which is one, up to and with `now`, at most `limit`.
    pub(super) fn all(&self, first: Timestamp, now: Timestamp, limit: usize) -> Vec<Timestamp> {
        let times = std::iter::successors(Some(first), |time| self.next(*time));
        times.take_while(|time| *time <= now).take(limit).collect()
    }

    /// The last time up to and with `now`, if it is not before `first`, which is one. Does not look at each time in between:
    /// there may be years of them.
    pub(super) fn last(&self, first: Timestamp, now: Timestamp) -> Option<Timestamp> {
        const HOUR: u64 = 3600;
        if first > now {
            return None;
        }
        for back in [HOUR, 24 * HOUR, 40 * 24 * HOUR, 1500 * 24 * HOUR] {
            let from = Timestamp(now.0.saturating_sub(micros(back)));
            if from <= first {
                break;
            }
            if let Some(found) = self.next(from).filter(|time| *time <= now) {
                return self.all(found, now, usize::MAX).pop();
            }
        }
        self.all(first, now, usize::MAX).pop()
    }
}

/// A time as people write it, in UTC. Those that cron means are whole minutes.
pub(super) fn in_utc(at: Timestamp) -> String {
    let micros = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => time.to_string(),
        // After the year 9999.
        Err(_) => at.0.to_string(),
    }
}

fn micros(seconds: u64) -> u64 {
    Timestamp(0).after(Duration::from_secs(seconds)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-01T00:00:00Z.
    const MARCH: Timestamp = Timestamp(1_772_323_200_000_000);

    fn hours_after(start: Timestamp, hours: u64) -> Timestamp {
        Timestamp(start.0 + micros(hours * 3600))
    }

    #[test]
    fn times_are_those_of_the_zone_or_of_utc() {
        let utc = Cron::parse("0 3 * * *").unwrap();
        assert_eq!(utc.next(MARCH), Some(hours_after(MARCH, 3)));
        assert_eq!(
            utc.next(hours_after(MARCH, 3)),
            Some(hours_after(MARCH, 27))
        );
        let warsaw = Cron::parse("0 3 * * * Europe/Warsaw").unwrap();
        assert_eq!(warsaw.next(MARCH), Some(hours_after(MARCH, 2)));
        // Summer time begins on the 29th.
        let april = hours_after(MARCH, 31 * 24);
        assert_eq!(warsaw.next(april), Some(hours_after(april, 1)));
        for bad in [
            "",
            "* * * *",
            "61 * * * *",
            "* * * * * Nowhere/Land",
            "@hourly please",
        ] {
            let error = Cron::parse(bad).unwrap_err();
            assert!(matches!(error, Error::InvalidSchedule { .. }), "{bad}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(in_utc(MARCH), "2026-03-01T00:00:00Z");
        assert_eq!(in_utc(Timestamp::MAX), u64::MAX.to_string());
    }

    #[test]
    fn the_last_time_is_found_however_long_ago_the_first_was() {
        for cron in ["* * * * *", "0 3 * * *", "0 0 1 * *", "0 0 29 2 *"] {
            let cron = Cron::parse(cron).unwrap();
            let first = cron.next(MARCH).unwrap();
            for hours in [1, 30, 24 * 33, 24 * 366, 24 * 366 * 5] {
                let now = hours_after(first, hours);
                let last = cron.last(first, now).unwrap();
                assert!(last <= now && last >= first);
                assert!(cron.next(last).unwrap() > now, "{cron:?} {hours}");
            }
            assert_eq!(cron.last(first, Timestamp(first.0 - 1)), None);
            assert_eq!(cron.last(first, first), Some(first));
        }
    }
}
