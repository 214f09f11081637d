//! Codes and their documentation agree.

use im_callback::callback::event::Reason;
use im_callback::http::error::Code;
use im_callback::store::documents::OTHER_CODES;

const DOCS: &str = include_str!("../../docs/errors.md");

/// Each code has a heading with its status, and there is no heading of a code that is gone.
#[test]
fn every_code_is_documented_and_nothing_else() {
    let documented: Vec<&str> = DOCS
        .lines()
        .filter_map(|line| line.strip_prefix("### `"))
        .collect();
    let http = Code::ALL
        .iter()
        .map(|code| format!("{}` ({})", code.as_str(), code.status().as_u16()));
    let reasons = [
        Reason::NotJson { line: 1, column: 1 },
        Reason::NotAnObject,
        Reason::MissingField,
        Reason::BadValue(""),
        Reason::TimeAhead,
        Reason::UnknownRoute,
        Reason::OtherProvider,
        Reason::SynchronousCallback,
    ];
    let codes: Vec<_> = reasons.iter().map(Reason::code).collect();
    assert_eq!(codes, Reason::CODES);
    let dead_letters = codes.into_iter().chain(OTHER_CODES);
    let dead_letters = dead_letters.map(|code| format!("{code}` (dead letter)"));
    let mut expected: Vec<_> = http.chain(dead_letters).collect();
    expected.sort();
    let mut documented: Vec<_> = documented.into_iter().map(str::to_owned).collect();
    documented.sort();
    assert_eq!(documented, expected);
}
