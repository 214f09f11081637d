//! Query strings, read strictly: what is not UTF-8 is an error, where the usual readers put a replacement character
//! and so ask about another id.

use super::error::{Code, Problem};

/// A parameter, whose value is still encoded.
pub struct QueryParameter<'q> {
    /// Its name, decoded.
    pub name: String,
    value: &'q str,
}

/// The parameters of a query string, in their order.
pub fn parameters(query: &str) -> impl Iterator<Item = Result<QueryParameter<'_>, Problem>> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = decoded(name).ok_or_else(|| {
            Problem::new(
                Code::InvalidUtf8,
                "the name of a parameter of the query is not UTF-8",
            )
        })?;
        Ok(QueryParameter { name, value })
    })
}

impl QueryParameter<'_> {
    /// Puts the value where it belongs, once.
    ///
    /// # Errors
    /// [`Code::InvalidUtf8`], or [`Code::InvalidField`] if there is a value already.
    pub fn put(&self, place: &mut Option<String>) -> Result<(), Problem> {
        if place.is_some() {
            let detail = "this field is given twice";
            return Err(Problem::at(Code::InvalidField, self.shown_name(), detail));
        }
        *place = Some(self.decoded(self.value)?);
        Ok(())
    }

    /// Adds the values of a list, with commas between them. It is split before it is decoded, so a comma inside an
    /// id is `%2C`.
    ///
    /// # Errors
    /// [`Code::InvalidUtf8`].
    pub fn add_to(&self, list: &mut Vec<String>) -> Result<(), Problem> {
        for value in self.value.split(',') {
            list.push(self.decoded(value)?);
        }
        Ok(())
    }

    /// What a caller sends is shown only as far as a field name goes.
    pub fn shown_name(&self) -> String {
        self.name.chars().take(64).collect()
    }

    fn decoded(&self, value: &str) -> Result<String, Problem> {
        decoded(value).ok_or_else(|| {
            let detail = "the value is not UTF-8";
            Problem::at(Code::InvalidUtf8, self.shown_name(), detail)
        })
    }
}

/// Decodes `%41` and `+`, as forms are decoded; `None` if the result is not UTF-8. A `%` without two digits is
/// itself.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (*first, tail),
            },
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::form_urlencoded;

    use super::*;

    #[test]
    fn a_list_is_split_before_it_is_decoded() {
        let mut list = Vec::new();
        for parameter in parameters("&a=b,%2C%2c,,x+y&&%61=1%&a") {
            let parameter = parameter.expect("UTF-8");
            assert_eq!(parameter.name, "a");
            parameter.add_to(&mut list).expect("UTF-8");
        }
        assert_eq!(list, ["b", ",,", "", "x y", "1%", ""]);
    }

    #[test]
    fn what_is_not_utf_8_is_an_error_at_its_name() {
        let codes = |query: &str| {
            let parameter = parameters(query).next().expect("a parameter")?;
            parameter.put(&mut None)?;
            parameter.add_to(&mut Vec::new())
        };
        for (query, path) in [
            ("%FF=1", None),
            ("a=%FF", Some("a")),
            ("a=1,%E4%BD", Some("a")),
            ("a=%ED%A0%80", Some("a")),
        ] {
            let problem = codes(query).expect_err(query);
            assert_eq!(
                (problem.code, problem.path.as_deref()),
                (Code::InvalidUtf8, path),
                "{query}"
            );
        }
        assert_eq!(codes("a=%E4%BD%A0"), Ok(()));
    }

    #[test]
    fn a_value_is_given_once() {
        let mut place = None;
        let mut all = parameters("a=&a=1").map(|parameter| parameter.expect("UTF-8"));
        let put = all.by_ref().map(|parameter| parameter.put(&mut place));
        let put: Vec<_> = put.collect();
        assert_eq!(put[0], Ok(()));
        let problem = put[1].clone().expect_err("twice");
        assert_eq!(problem.code, Code::InvalidField);
        assert_eq!(place.as_deref(), Some(""));
    }

    proptest! {
        /// It agrees with the usual reader where that loses nothing.
        #[test]
        fn other_queries_are_read_as_forms_are(query in "[a-c%&=+2A-F\u{e9}]{0,24}") {
            let usual: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let lost = usual.iter().any(|(n, v)| n.contains('\u{fffd}') || v.contains('\u{fffd}'));
            let ours: Result<Vec<_>, Problem> = parameters(&query)
                .map(|parameter| {
                    let parameter = parameter?;
                    let mut value = None;
                    parameter.put(&mut value)?;
                    Ok((parameter.name, value.unwrap_or_default()))
                })
                .collect();
            match ours {
                Ok(ours) => prop_assert_eq!(ours, usual),
                Err(problem) => prop_assert!(lost, "{}", problem),
            }
        }
    }
}
