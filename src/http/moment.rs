//! Times in answers.

use jiff::Timestamp;

/// The first millisecond of the year 0. RFC 3339 has no earlier years.
const FIRST: i64 = -62_167_219_200_000;

/// Milliseconds since 1970 in RFC 3339, in UTC and always with three digits of a second, such as
/// `2026-01-02T03:04:05.000Z`. `None` outside of the years 0 to 9999, and in the last day of these, which `jiff` leaves
/// to other time zones.
pub fn moment(millis: i64) -> Option<String> {
    let at = Timestamp::from_millisecond(millis).ok()?;
    (millis >= FIRST).then(|| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_milliseconds_and_a_year_of_four_digits() {
        const LAST: i64 = 253_402_207_200_000;
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
            (FIRST, "0000-01-01T00:00:00.000Z"),
            (LAST - 1, "9999-12-30T21:59:59.999Z"),
        ] {
            assert_eq!(moment(at).as_deref(), Some(text));
        }
        for at in [
            FIRST - 1,
            LAST + 1000,
            253_402_300_799_999,
            i64::MIN,
            i64::MAX,
        ] {
            assert_eq!(moment(at), None, "{at}");
        }
    }
}
