//! What the user of the connection string may do.

use mongodb::bson::{Document, doc, rawdoc};
use mongodb::{Client, Database};

use crate::store::collection;
use crate::store::error::is_unauthorized;
use crate::store::statements::without_effect;

/// A login at the primary that MongoDB accepted.
#[derive(Debug)]
pub struct Login {
    /// The database of the service, at the primary alone.
    pub(super) database: Database,
    /// The user's roles, such as `read@im`.
    roles: Vec<String>,
    /// Whether MongoDB knows who this is. Without access control it does not ask.
    is_somebody: bool,
    /// Its privileges; `None` where MongoDB does not tell, or demands no login.
    privileges: Option<Vec<Privilege>>,
}

#[derive(Debug)]
struct Privilege {
    /// `None` where it is not about collections.
    resource: Option<Resource>,
    actions: Vec<String>,
}

/// A database and a collection; empty for all, but for those of the system.
#[derive(Debug)]
struct Resource {
    database: String,
    collection: String,
    is_any: bool,
}

/// What the service and its commands do: `find` to count, indexes and retention, and to drop dead letters and the reports
/// of spools. `collMod`, which the role `readWrite` has not, is not missed: where it is refused, the retention's index is
/// made anew.
const WANTED: [&str; 8] = [
    "find",
    "insert",
    "update",
    "remove",
    "createCollection",
    "createIndex",
    "dropIndex",
    "listIndexes",
];

/// All collections of the service.
const COLLECTIONS: [&str; 7] = [
    collection::MESSAGES,
    collection::EVENTS,
    collection::READ_MARKS,
    collection::PRESENCE,
    collection::DEAD_LETTERS,
    collection::PROGRESS,
    collection::SPOOLS,
];

/// Collections, rights in them, and what comes of lacking one, the worst first.
const CONSEQUENCES: [(&[&str], &[&str], &str); 4] = [
    (
        &[collection::DEAD_LETTERS],
        &["insert", "update"],
        "each callback that cannot be decoded starts an outage, and ends in quarantine",
    ),
    (
        &[collection::MESSAGES, collection::READ_MARKS],
        &["find"],
        "counts are answered 503",
    ),
    (
        &[collection::SPOOLS],
        &["find", "insert", "update"],
        "counts cannot tell whether callbacks wait in a spool",
    ),
    (
        &[collection::PROGRESS],
        &["find", "insert", "update"],
        "the reconcile does not remember how far it came",
    ),
];

impl Login {
    /// Logs in and asks for the privileges.
    pub(super) async fn try_with(client: Client, database: &str) -> mongodb::error::Result<Self> {
        let database = client.database(database);
        // Refused where a login is demanded and there is none, unlike `connectionStatus`.
        let one = doc! { "find": collection::MESSAGES, "limit": 1, "projection": { "_id": 1 } };
        let asked = match database.run_command(one).await {
            Err(error) if !is_unauthorized(&error) => return Err(error),
            asked => asked,
        };
        let ask = doc! { "connectionStatus": 1, "showPrivileges": true };
        let status = database.run_command(ask).await?;
        let login = Self::read(database, &status);
        match asked {
            Err(error) if !login.is_somebody() => Err(error),
            // A user who may not read has logged in all the same, and is told which right it lacks.
            Ok(_) | Err(_) => Ok(login),
        }
    }

    fn read(database: Database, status: &Document) -> Self {
        let info = status.get_document("authInfo").cloned().unwrap_or_default();
        let told = |name: &str| -> Option<Vec<Document>> {
            let all = info.get_array(name).ok()?.iter();
            Some(all.filter_map(|one| one.as_document().cloned()).collect())
        };
        let documents = |name: &str| told(name).unwrap_or_default();
        let is_somebody = !documents("authenticatedUsers").is_empty();
        let roles = documents("authenticatedUserRoles");
        let roles = roles.iter().filter_map(|role| {
            Some(format!(
                "{}@{}",
                role.get_str("role").ok()?,
                role.get_str("db").ok()?
            ))
        });
        Self {
            database,
            roles: roles.collect(),
            is_somebody,
            privileges: told("authenticatedUserPrivileges")
                .filter(|_| is_somebody)
                .map(|all| all.iter().map(Privilege::read).collect()),
        }
    }

    /// Whether MongoDB knows who this is. Without access control it does not ask.
    pub(super) fn is_somebody(&self) -> bool {
        self.is_somebody
    }

    /// Whether MongoDB tells what the user may do.
    pub(super) fn is_told_rights(&self) -> bool {
        self.privileges.is_some()
    }

    /// The user's roles.
    pub(super) fn roles(&self) -> String {
        if self.roles.is_empty() {
            return "none".to_owned();
        }
        self.roles.join(", ")
    }

    /// The first right to write that MongoDB refuses, in words, and the code by which it does. Asked by a write without
    /// effect, since privileges alone do not tell: without access control nobody asks for them.
    pub(super) async fn refused_write(&self) -> Option<String> {
        for name in collection::WRITTEN {
            let update = rawdoc! { "update": name, "updates": [without_effect()] };
            if let Err(error) = self.database.run_raw_command(update).await
                && is_unauthorized(&error)
            {
                let database = self.database.name();
                let lacking = self.lacking(database, &collection::WRITTEN, &["insert", "update"]);
                let lacking = lacking.into_iter().next();
                return Some(lacking.unwrap_or_else(|| format!("update in {database}.{name}")));
            }
        }
        None
    }

    /// What of the rights that the service and its commands use is lacking.
    pub(super) fn lacks(&self, database: &str) -> Vec<String> {
        self.lacking(database, &COLLECTIONS, &WANTED)
    }

    /// The worst that comes of lacking rights without which the service does not do what it promises.
    pub(super) fn consequence(&self, database: &str) -> Option<&'static str> {
        let lacks = |(collections, actions, _): &&(&[&str], &[&str], _)| {
            !self.lacking(database, collections, actions).is_empty()
        };
        CONSEQUENCES.iter().find(lacks).map(|(_, _, what)| *what)
    }

    fn lacking(&self, database: &str, collections: &[&str], actions: &[&str]) -> Vec<String> {
        let Some(privileges) = &self.privileges else {
            return Vec::new();
        };
        let may = |collection: &str, action: &str| {
            let allows = |p: &Privilege| p.allows(database, collection, action);
            privileges.iter().any(allows)
        };
        let lacking = actions.iter().filter_map(|action| {
            let without = collections.iter().filter(|name| !may(name, action));
            let without: Vec<_> = without.copied().collect();
            match without.len() {
                0 => None,
                n if n == collections.len() => Some(format!("{action} in {database}")),
                _ => Some(format!("{action} in {database}.{}", without.join(", "))),
            }
        });
        lacking.collect()
    }
}

impl Privilege {
    fn read(privilege: &Document) -> Self {
        let resource = privilege.get_document("resource").ok();
        let actions = privilege.get_array("actions").into_iter().flatten();
        Self {
            resource: resource.and_then(|resource| {
                let text = |name: &str| resource.get_str(name).ok().map(str::to_owned);
                if resource.get_bool("anyResource").unwrap_or_default() {
                    return Some(Resource {
                        database: String::new(),
                        collection: String::new(),
                        is_any: true,
                    });
                }
                Some(Resource {
                    database: text("db")?,
                    collection: text("collection")?,
                    is_any: false,
                })
            }),
            actions: actions
                .filter_map(|action| action.as_str().map(str::to_owned))
                .collect(),
        }
    }

    fn allows(&self, database: &str, collection: &str, action: &str) -> bool {
        let covers = |resource: &Resource| {
            let is = |held: &str, asked: &str| held.is_empty() || held == asked;
            resource.is_any
                || is(&resource.database, database) && is(&resource.collection, collection)
        };
        self.resource.as_ref().is_some_and(covers)
            && self
                .actions
                .iter()
                .any(|held| held == action || held == "anyAction")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn login(privileges: &[Document]) -> Login {
        Login {
            is_somebody: true,
            privileges: Some(privileges.iter().map(Privilege::read).collect()),
            roles: Vec::new(),
            database: client().database("im"),
        }
    }

    /// It connects to nothing until it is asked.
    fn client() -> Client {
        let options = mongodb::options::ClientOptions::builder().build();
        Client::with_options(options).unwrap()
    }

    fn privilege(resource: Document, actions: &[&str]) -> Document {
        doc! { "resource": resource, "actions": actions }
    }

    #[tokio::test]
    async fn rights_are_read_from_privileges() {
        for whole in [
            doc! { "db": "im", "collection": "" },
            doc! { "db": "", "collection": "" },
            doc! { "anyResource": true },
        ] {
            let login = login(&[privilege(whole, &WANTED)]);
            assert_eq!(login.lacks("im"), Vec::<String>::new());
        }
        let elsewhere = privilege(doc! { "db": "other", "collection": "" }, &WANTED);
        let cluster = privilege(doc! { "cluster": true }, &WANTED);
        let none = login(&[elsewhere, cluster]);
        assert!(none.lacks("im").contains(&"insert in im".to_owned()));
        // The least with which callbacks are stored.
        let written = collection::WRITTEN.map(|name| {
            privilege(
                doc! { "db": "im", "collection": name },
                &["insert", "update"],
            )
        });
        let first = login(&written[1..]).lacking("im", &collection::WRITTEN, &["insert"]);
        assert_eq!(first, ["insert in im.messages"]);
        let lacks = login(&written).lacks("im");
        assert!(lacks.contains(&"find in im".to_owned()), "{lacks:?}");
        let insert = "insert in im.dead_letters, progress, spools".to_owned();
        assert!(lacks.contains(&insert), "{lacks:?}");
        let consequence = |privileges: &[Document]| login(privileges).consequence("im");
        assert!(consequence(&written).is_some_and(|what| what.contains("quarantine")));
        let on = |name: &str, actions: &[&str]| {
            privilege(doc! { "db": "im", "collection": name }, actions)
        };
        let mut more = written.to_vec();
        more.push(on(collection::DEAD_LETTERS, &["insert", "update"]));
        assert_eq!(consequence(&more), Some("counts are answered 503"));
        more.push(on("", &["find"]));
        assert!(consequence(&more).is_some_and(|what| what.contains("wait in a spool")));
        more.push(on("", &["insert", "update"]));
        assert_eq!(consequence(&more), None);
    }

    /// A server that tells the user and not its privileges has not said that there are none.
    #[tokio::test]
    async fn rights_that_are_not_told_are_unknown() {
        let users = vec![doc! { "user": "writer", "db": "admin" }];
        let mut info = doc! { "authenticatedUsers": users, "authenticatedUserRoles": [] };
        let read = |info: &Document| {
            Login::read(client().database("im"), &doc! { "authInfo": info.clone() })
        };
        let login = read(&info);
        assert!(login.is_somebody() && !login.is_told_rights());
        assert_eq!(login.lacks("im"), Vec::<String>::new());
        info.insert("authenticatedUserPrivileges", Vec::<Document>::new());
        let login = read(&info);
        assert!(login.is_told_rights() && !login.lacks("im").is_empty());
    }
}
