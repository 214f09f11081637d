//! What may be asked, and its limits.

use utoipa::{IntoParams, ToSchema};

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
];

/// What is asked.
#[derive(Debug, Clone, Default, IntoParams, ToSchema)]
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
    pub teams: Option<Vec<String>>,
    /// A count that reaches it means "that many or more".
    pub cap: Option<u64>,
    /// Whether to say who wrote the messages of each order.
    pub order_peers: bool,
    /// How many entries of each kind an overview has.
    pub limit: Option<u64>,
    /// Where an overview goes on.
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

/// Checks a question's lists, ids and limits, and that the app can be asked this.
///
/// # Errors
/// A [`Problem`] of 422.
pub fn check(asked: &UnreadQuery, app: &App, limits: &Http) -> Result<(), Problem> {
    check_id("user", &asked.user, limits)?;
    if asked.peers.is_none() && asked.orders.is_none() {
        return Err(Problem::new(Code::NoList, "give `peers`, `orders` or both"));
    }
    let lists = [("peers", &asked.peers), ("orders", &asked.orders)];
    let mut ids = 0;
    for (name, list) in lists {
        for (i, id) in list.iter().flatten().enumerate() {
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
    if asked.orders.is_some() && app.provider.order_id().is_none() {
        return Err(no_orders(app));
    }
    Ok(())
}

/// Zeros would say that there is nothing to read.
fn no_orders(app: &App) -> Problem {
    let provider = app.provider.name();
    let why = if provider.order_fields().is_empty() {
        format!(
            "the bodies of its provider, `{provider}`, are not decoded, so apps.order_id cannot be set"
        )
    } else {
        "set apps.order_id, which says where its messages carry their order".to_owned()
    };
    let detail = format!("the app `{}` cannot be asked by order: {why}", app.name);
    Problem::at(Code::OrdersNotConfigured, "orders", detail)
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
