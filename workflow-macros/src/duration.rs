//! Durations as attributes write them: `"250ms"`, `"1.5s"`, `"100ms..30s"`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Units and how many nanoseconds each has.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// A duration that is not zero.
///
/// # Errors
/// What is wrong with `text`, as the end of a sentence that begins with the text itself.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let nanos = nanos(number, unit)?;
    if nanos == 0 {
        return Err("is no time at all: write a duration greater than zero".into());
    }
    Ok(Duration::from_nanos(nanos))
}

/// A pair of durations, `"100ms..30s"`, or one that stands for both ends.
///
/// # Errors
/// As [`parse`], for the end that is wrong; and if the first is longer than the second.
pub(crate) fn parse_range(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let Some((min, max)) = text.split_once("..") else {
        let both = parse(text)?;
        return Ok(both..=both);
    };
    let end =
        |end: &str| parse(end).map_err(|why| format!("is not a range of durations: `{end}` {why}"));
    let (min_value, max_value) = (end(min)?, end(max)?);
    if min_value > max_value {
        return Err(format!("begins after it ends: write `{max}..{min}`"));
    }
    Ok(min_value..=max_value)
}

fn split(text: &str) -> Result<(&str, u64), String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    if number.is_empty() {
        return Err("is not a duration: write a number and a unit, such as `30s`".into());
    }
    if unit.is_empty() {
        return Err(format!(
            "has no unit: write `{number}s` for seconds (units are ns, us, ms, s, m, h, d)"
        ));
    }
    match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, nanos)) => Ok((number, *nanos)),
        None => Err(format!(
            "has the unknown unit `{unit}`: the units are ns, us, ms, s, m, h, d"
        )),
    }
}

/// Exact: no floating point, so that `0.1s` is 100 ms and not a nanosecond less.
fn nanos(number: &str, unit: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(format!(
            "is not a duration: `{number}` is not a number such as `1` or `1.5`"
        ));
    }
    let too_long = || "is too long: the longest is about 584 years (213503d)".to_string();
    let whole: u64 = whole.parse().map_err(|_| too_long())?;
    let nanos = whole.checked_mul(unit).ok_or_else(too_long)?;
    let fraction = fraction_of(fraction.trim_end_matches('0'), unit).ok_or_else(|| {
        format!("is finer than a nanosecond: `{number}` has more digits than its unit can hold")
    })?;
    nanos.checked_add(fraction).ok_or_else(too_long)
}

/// `0.digits` of `unit`, if that is a whole number.
fn fraction_of(digits: &str, unit: u64) -> Option<u64> {
    let scale = 10u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let digits: u128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let product = digits.checked_mul(u128::from(unit))?;
    (product % scale == 0)
        .then(|| u64::try_from(product / scale).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact() {
        for (text, nanos) in [
            ("1ns", 1),
            ("7us", 7_000),
            ("250ms", 250_000_000),
            ("30s", 30_000_000_000),
            ("0.1s", 100_000_000),
            ("1.5s", 1_500_000_000),
            ("1.50s", 1_500_000_000),
            ("0.000000001s", 1),
            ("2m", 120_000_000_000),
            ("0.5h", 1_800_000_000_000),
            ("1.25d", 108_000_000_000_000),
            ("213503d", 213_503 * 86_400 * 1_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_says_why() {
        for (text, why) in [
            ("", "is not a duration"),
            ("s", "is not a duration"),
            ("-1s", "is not a duration"),
            ("30", "has no unit: write `30s`"),
            ("30 s", "has the unknown unit ` s`"),
            ("30sec", "has the unknown unit `sec`"),
            ("1h30m", "has the unknown unit `h30m`"),
            (".5s", "is not a duration"),
            ("5.s", "is not a duration"),
            ("1.2.3s", "is not a duration"),
            ("0s", "is no time at all"),
            ("0.0ms", "is no time at all"),
            ("0.5ns", "is finer than a nanosecond"),
            (
                "0.00000000000000000000000000000000000000001d",
                "is finer than a nanosecond",
            ),
            ("213504d", "is too long"),
            ("99999999999999999999s", "is too long"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_have_ordered_ends() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(parse_range("100ms..30s"), Ok(ms(100)..=s(30)));
        assert_eq!(parse_range("1s..1s"), Ok(s(1)..=s(1)));
        assert_eq!(parse_range("2s"), Ok(s(2)..=s(2)));
        for (text, why) in [
            ("30s..100ms", "begins after it ends: write `100ms..30s`"),
            ("..30s", "is not a range of durations: `` is not a duration"),
            ("1s..", "is not a range of durations: `` is not a duration"),
            (
                "0s..1s",
                "is not a range of durations: `0s` is no time at all",
            ),
            (
                "1s..=2s",
                "is not a range of durations: `=2s` is not a duration",
            ),
            (
                "100..200ms",
                "is not a range of durations: `100` has no unit",
            ),
        ] {
            let error = parse_range(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }
}
