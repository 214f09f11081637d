//! What may be asked, and its limits.

use utoipa::ToSchema;

use super::cursor::UnreadCursor;
use crate::config::Http;
use crate::http::asked::{AskedField, AskedFields, FieldKind};
use crate::http::error::{Code, Problem};
use crate::ingest::App;

/// The fields of a question.
pub const FIELDS: &[AskedField] = &[
    ("app", FieldKind::Text),
    ("user", FieldKind::NeededText),
    ("peers", FieldKind::Texts),
    ("orders", FieldKind::Texts),
    ("teams", FieldKind::Texts),
    ("cap", FieldKind::Number),
    ("order_peers", FieldKind::Flag),
    ("limit", FieldKind::Number),
    ("after", FieldKind::Text),
];

/// The highest cap: beyond, there is no use for one.
const HIGHEST_CAP: u64 = 1_000_000;

/// The entries of each kind in an overview, unless it is asked for fewer or more.
const USUAL_LIMIT: usize = 100;

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, utoipa::IntoParams, ToSchema)]
#[into_params(parameter_in = Query, style = Form)]
#[serde(deny_unknown_fields)]
pub struct UnreadQuery {
    /// The app, where the caller may ask about several.
    #[param(nullable = false, example = "otc")]
    #[schema(example = "otc")]
    pub app: Option<String>,
    /// Whose unread messages are counted.
    #[param(min_length = 1, example = "bob")]
    #[schema(min_length = 1, example = "bob")]
    pub user: String,
    /// Count by these senders.
    #[param(nullable = false, explode = false, example = json!(["ann", "bea"]))]
    #[schema(example = json!(["ann", "bea"]))]
    pub peers: Option<Vec<String>>,
    /// Count by these orders. For apps whose messages carry an order (`apps.order_id`).
    #[param(nullable = false, explode = false)]
    #[schema(example = json!(["A-1001"]))]
    pub orders: Option<Vec<String>>,
    /// Count by these teams.
    #[param(nullable = false, explode = false)]
    #[schema(example = json!(["77"]))]
    pub teams: Option<Vec<String>>,
    /// A count that reaches it means "that many or more".
    #[param(nullable = false, minimum = 1, maximum = 1_000_000)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub cap: Option<u64>,
    /// Whether to say who wrote the messages of each order.
    #[param(required = false)]
    #[schema(required = false)]
    pub order_peers: bool,
    /// How many entries of each kind an overview has.
    #[param(nullable = false, minimum = 1)]
    #[schema(minimum = 1)]
    pub limit: Option<u64>,
    /// Where an overview goes on: the `next` of the answer before.
    #[param(nullable = false)]
    pub after: Option<String>,
}

impl From<AskedFields> for UnreadQuery {
    fn from(mut fields: AskedFields) -> Self {
        Self {
            app: fields.text("app"),
            user: fields.needed_text("user"),
            peers: fields.texts("peers"),
            orders: fields.texts("orders"),
            teams: fields.texts("teams"),
            cap: fields.number("cap"),
            order_peers: fields.flag("order_peers"),
            limit: fields.number("limit"),
            after: fields.text("after"),
        }
    }
}

impl UnreadQuery {
    /// Its lists with their names.
    pub(super) fn lists(&self) -> [(&'static str, Option<&[String]>); 3] {
        [
            ("peers", self.peers.as_deref()),
            ("orders", self.orders.as_deref()),
            ("teams", self.teams.as_deref()),
        ]
    }

    /// Whether it is about all of the user, for it has no list.
    pub(super) fn is_overview(&self) -> bool {
        self.lists().iter().all(|(_, list)| list.is_none())
    }

    /// The entries of each kind in an overview.
    pub(super) fn entries(&self, limits: &Http) -> usize {
        let asked = self.limit.and_then(|limit| usize::try_from(limit).ok());
        asked.unwrap_or(USUAL_LIMIT).min(limits.max_ids)
    }

    /// A count as it is answered.
    pub(super) fn capped(&self, unread: u64) -> u64 {
        self.cap.map_or(unread, |cap| unread.min(cap))
    }
}

/// Checks a question's lists, ids and limits, and that the app can be asked this.
///
/// # Errors
/// A [`Problem`] of 422.
pub fn check(asked: &UnreadQuery, app: &App, limits: &Http) -> Result<(), Problem> {
    check_id("user", &asked.user, limits)?;
    let mut ids = 0;
    for (name, list) in asked.lists() {
        for (i, id) in list.unwrap_or_default().iter().enumerate() {
            ids += 1;
            if ids > limits.max_ids {
                let detail = format!(
                    "the limit is {} ids (http.max_ids); split the query",
                    limits.max_ids
                );
                return Err(Problem::at(Code::TooManyIds, name, detail));
            }
            check_id(&format!("{name}[{i}]"), id, limits)?;
        }
    }
    check_options(asked, limits)?;
    if asked.orders.is_some() && app.provider.order_id().is_none() {
        return Err(no_orders(app, "orders"));
    }
    if let Some(after) = &asked.after {
        UnreadCursor::parse(after, app)?;
    }
    Ok(())
}

/// Checks what is not an id.
fn check_options(asked: &UnreadQuery, limits: &Http) -> Result<(), Problem> {
    let wrong = |path, detail: String| Err(Problem::at(Code::InvalidField, path, detail));
    if asked
        .cap
        .is_some_and(|cap| !(1..=HIGHEST_CAP).contains(&cap))
    {
        return wrong("cap", format!("a cap is 1 to {HIGHEST_CAP}"));
    }
    if asked.order_peers && asked.orders.is_none() {
        let detail = "this needs `orders`; without lists the peers of orders are there anyway";
        return wrong("order_peers", detail.to_owned());
    }
    let pages = [
        ("limit", asked.limit.is_some()),
        ("after", asked.after.is_some()),
    ];
    for (name, is_given) in pages {
        if is_given && !asked.is_overview() {
            let detail = "lists are answered whole; only a query without lists has pages";
            return wrong(name, detail.to_owned());
        }
    }
    let most = limits.max_ids as u64;
    if asked
        .limit
        .is_some_and(|limit| !(1..=most).contains(&limit))
    {
        return wrong("limit", format!("a limit is 1 to {most} (http.max_ids)"));
    }
    Ok(())
}

/// Refuses a question by order, at the field that has it: zeros would say that there is nothing to read.
pub fn no_orders(app: &App, field: &'static str) -> Problem {
    let provider = app.provider.name();
    let why = if provider.order_fields().is_empty() {
        format!(
            "the bodies of its provider, `{provider}`, are not decoded, so apps.order_id cannot be set"
        )
    } else {
        "set apps.order_id, which says where its messages carry their order".to_owned()
    };
    let detail = format!("the app `{}` has no orders: {why}", app.name);
    Problem::at(Code::OrdersNotConfigured, field, detail)
}

/// Checks an id's length.
///
/// # Errors
/// A [`Problem`] of 422.
pub fn check_id(path: &str, id: &str, limits: &Http) -> Result<(), Problem> {
    if id.is_empty() {
        return Err(Problem::at(
            Code::EmptyId,
            path,
            "an id has at least one character",
        ));
    }
    if id.len() > limits.max_id_length {
        let detail = format!(
            "the limit is {} bytes (http.max_id_length)",
            limits.max_id_length
        );
        return Err(Problem::at(Code::IdTooLong, path, detail));
    }
    Ok(())
}
