//! Texts that a person reads.

/// A number with its noun: `1 callback`, `2 callbacks`.
pub fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// A text without `(os error 2)`, which only repeats the words before it.
pub fn without_os_codes(text: &str) -> String {
    const BEFORE: &str = " (os error ";
    let mut parts = text.split(BEFORE);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((code, rest)) if code.parse::<i32>().is_ok() => kept.push_str(rest),
            _ => kept.extend([BEFORE, part]),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(0_u64, "callback"), "0 callbacks");
        assert_eq!(counted(1_usize, "callback"), "1 callback");
        assert_eq!(counted(2_u64, "live secret"), "2 live secrets");
    }

    #[test]
    fn only_codes_are_cut() {
        let cases = [
            ("", ""),
            ("cannot read x", "cannot read x"),
            ("a: refused (os error 111)", "a: refused"),
            ("a (os error 2): b (os error -3), c", "a: b, c"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error 2", "a (os error 2"),
        ];
        for (text, expected) in cases {
            assert_eq!(without_os_codes(text), expected);
        }
    }
}
