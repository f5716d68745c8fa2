//! Cron expressions: which times they mean.

use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};
use keepstep_storage::Timestamp;

use crate::error::{Error, Result};

/// Words for expressions that many schedules have.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];
/// In so many years, each day of the week has been a 29th of February.
const LONGEST_CYCLE_YEARS: i64 = 40;

/// A parsed expression.
#[derive(Debug)]
pub(super) struct Cron(Times);

#[derive(Debug)]
enum Times {
    /// Minutes or hours are counted, such as each quarter of an hour: as time passes, whatever the clocks of the zone do.
    Counted(Crontab),
    /// Times of the day, as the clocks of a zone show them.
    OfDay { fields: Crontab, zone: TimeZone },
}

impl Cron {
    /// Reads five fields, or a word for them, and a time zone perhaps.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |message: String| Error::InvalidSchedule {
            cron: text.to_owned(),
            message,
        };
        let mut parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if let Some(word) = parts.first().filter(|first| first.starts_with('@')) {
            let known = WORDS.iter().find(|(known, _)| known == word);
            let (_, fields) = known.ok_or_else(|| {
                let known = WORDS.map(|(known, _)| known).join(", ");
                invalid(format!("there is no {word}, only {known}"))
            })?;
            parts.splice(..1, fields.split(' '));
        }
        let parsed = read(&parts.join(" ")).map_err(|error| invalid(error.to_string()))?;
        let is_counted = parts.iter().take(2).any(|field| field.contains('*'));
        let zone = parts.get(5).filter(|_| !is_counted);
        // In UTC, a clock is never turned.
        let Some(zone) = zone else {
            return Ok(Self(Times::Counted(parsed)));
        };
        let zone = DateTimeParser::new().parse_time_zone(zone);
        let zone = zone.map_err(|error| invalid(error.to_string()))?;
        let fields = read(&parts[..5].join(" ")).map_err(|error| invalid(error.to_string()))?;
        Ok(Self(Times::OfDay { fields, zone }))
    }

    /// The first time after this one; `None` if there is none.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let micros = i64::try_from(after.0).ok()?;
        let after = jiff::Timestamp::from_microsecond(micros).ok()?;
        let next = match &self.0 {
            Times::Counted(fields) => find(fields, after)?.timestamp(),
            Times::OfDay { fields, zone } => {
                let mut shown = zone.to_datetime(after);
                loop {
                    // The fields are read in UTC, where each time of each day is there once.
                    let next = find(fields, TimeZone::UTC.to_timestamp(shown).ok()?)?;
                    shown = next.datetime();
                    let at = first_moment(zone, shown)?;
                    // A clock that was turned back shows times again that have been.
                    if at > after {
                        break at;
                    }
                }
            }
        };
        u64::try_from(next.as_microsecond()).ok().map(Timestamp)
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

/// Reads five fields, and a time zone, which is UTC if it is not there.
fn read(text: &str) -> std::result::Result<Crontab, cronexpr::Error> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    cronexpr::parse_crontab_with(text, options)
}

/// The first time after this one.
fn find(fields: &Crontab, after: jiff::Timestamp) -> Option<Zoned> {
    // One search looks four years ahead.
    let starts = (0..LONGEST_CYCLE_YEARS / 4).map_while(|n| {
        let days = SignedDuration::from_hours(n * 4 * 365 * 24);
        after.checked_add(days).ok()
    });
    starts
        .filter_map(|start| fields.find_next(MakeTimestamp(start)).ok())
        .next()
}

/// The first moment at which the clocks of a zone show a time, or have gone past it if they never show it.
fn first_moment(zone: &TimeZone, shown: DateTime) -> Option<jiff::Timestamp> {
    let shown = zone.to_ambiguous_timestamp(shown);
    let is_skipped = matches!(shown.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
    let first = shown.earlier().ok()?;
    if !is_skipped {
        return Some(first);
    }
    // That is before the clocks are turned forward, by as much as the time is past the moment of that.
    Some(zone.following(first).next()?.timestamp())
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
            "@reboot",
            "@",
        ] {
            let error = Cron::parse(bad).unwrap_err();
            assert!(matches!(error, Error::InvalidSchedule { .. }), "{bad}");
        }
    }

    fn micros_of(time: &str) -> Timestamp {
        let time: jiff::Timestamp = time.parse().unwrap();
        Timestamp(time.as_microsecond().try_into().unwrap())
    }

    /// All times of an expression from one time to another.
    fn times(cron: &str, from: &str, to: &str) -> Vec<String> {
        let (cron, from) = (Cron::parse(cron).unwrap(), micros_of(from));
        let all = cron.all(cron.next(from).unwrap(), micros_of(to), 1000);
        all.into_iter().map(in_utc).collect()
    }

    #[test]
    fn a_time_of_day_that_the_clocks_skip_comes_when_they_have() {
        // Warsaw turns its clocks from 2:00 to 3:00 on 2027-03-28, at 1:00 UTC.
        let (from, to) = ("2027-03-26T12:00:00Z", "2027-03-29T12:00:00Z");
        let expected = [
            "2027-03-27T01:30:00Z",
            "2027-03-28T01:00:00Z",
            "2027-03-29T00:30:00Z",
        ];
        assert_eq!(times("30 2 * * * Europe/Warsaw", from, to), expected);
        // Several of them come once, and so does what is meant to come then.
        let day = ("2027-03-28T00:30:00Z", "2027-03-28T01:59:00Z");
        let several = times("0,30 2,3 * * * Europe/Warsaw", day.0, day.1);
        assert_eq!(several, ["2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"]);
        // Santiago has no midnight on Sunday, 2026-09-06.
        let (from, to) = ("2026-08-30T12:00:00Z", "2026-09-14T12:00:00Z");
        let expected = ["2026-09-06T04:00:00Z", "2026-09-13T03:00:00Z"];
        assert_eq!(times("0 0 * * SUN America/Santiago", from, to), expected);
        assert_eq!(times("@weekly America/Santiago", from, to), expected);
    }

    #[test]
    fn a_time_of_day_that_the_clocks_show_twice_comes_at_the_first() {
        // Warsaw turns its clocks from 3:00 to 2:00 on 2027-10-31, at 1:00 UTC.
        let (from, to) = ("2027-10-30T12:00:00Z", "2027-11-01T12:00:00Z");
        let expected = ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"];
        assert_eq!(times("30 2 * * * Europe/Warsaw", from, to), expected);
        // Asked in between, too.
        let cron = Cron::parse("30 2 * * * Europe/Warsaw").unwrap();
        for between in ["2027-10-31T00:45:00Z", "2027-10-31T01:15:00Z"] {
            let next = cron.next(micros_of(between)).map(in_utc);
            assert_eq!(next.as_deref(), Some(expected[1]));
        }
    }

    #[test]
    fn what_is_counted_follows_the_clock() {
        let hours = ["2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z"];
        let (from, to) = ("2027-03-27T23:30:00Z", "2027-03-28T01:30:00Z");
        assert_eq!(times("0 * * * * Europe/Warsaw", from, to), hours);
        let (from, to) = ("2027-10-30T23:59:00Z", "2027-10-31T02:00:00Z");
        let quarters = times("*/15 * * * * Europe/Warsaw", from, to);
        assert_eq!(quarters.len(), 9, "{quarters:?}");
    }

    #[test]
    fn words_stand_for_expressions() {
        for (word, fields) in WORDS {
            let (word, fields) = (Cron::parse(word).unwrap(), Cron::parse(fields).unwrap());
            assert_eq!(word.next(MARCH), fields.next(MARCH));
        }
        let next = Cron::parse("@daily Europe/Warsaw").unwrap().next(MARCH);
        assert_eq!(next, Some(hours_after(MARCH, 23)));
    }

    #[test]
    fn what_comes_rarely_is_found_and_what_never_comes_is_not() {
        for never in ["0 0 30 2 *", "0 0 31 4,6 * Europe/Warsaw"] {
            assert_eq!(Cron::parse(never).unwrap().next(MARCH), None, "{never}");
        }
        // A 29th of February that is a Sunday, counting by the star in the first of the two fields.
        let rare = Cron::parse("0 0 */28 2 SUN").unwrap();
        assert!(rare.next(MARCH).is_some());
        let century = micros_of("2096-03-01T00:00:00Z");
        let next = Cron::parse("0 0 29 2 *").unwrap().next(century);
        assert_eq!(next.map(in_utc).as_deref(), Some("2104-02-29T00:00:00Z"));
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
