//! A server with access control, a service that writes to it, and the users of the document.

use mongodb::bson::Document;
use mongodb::{Client, Database};

use super::shell::Shell;
use super::{By, queries, story};
use crate::support::mongod::Mongod;
use crate::support::{Instance, TestApp, config, http, skip};

/// A service with the story in its database `im`.
pub struct Site {
    pub app: TestApp,
    /// `im`, as an administrator.
    pub root: Database,
    pub shell: Shell,
    pub mongod: Mongod,
}

impl Site {
    /// `None` where there is no `mongosh`, or no program to start a server.
    pub async fn start() -> Option<Self> {
        let Some(shell) = Shell::find() else {
            skip("there is no mongosh; scripts/mongosh.py path fetches it");
            return None;
        };
        let Some(mongod) = Mongod::secured("im", &[("service", "readWrite")]).await else {
            skip("MONGOD names no program");
            return None;
        };
        let service = format!(
            "mongodb://service:service@{}/?replicaSet=rs0",
            mongod.host()
        );
        let uri = format!(
            "mongodb://root:root@{}/?directConnection=true",
            mongod.host()
        );
        let root = Client::with_uri_str(uri).await.unwrap().database("im");
        let app = TestApp {
            instance: Instance::start(config(&service, "im", story::SHOP)),
            database: root.clone(),
            http: http(),
        };
        app.until_ready().await;
        until_indexed(&root).await;
        story::deliver(&app, &root).await;
        Some(Self {
            app,
            root,
            shell,
            mongod,
        })
    }

    /// The address by which a user asks, as the document says: by a member of its own.
    pub fn uri(&self, user: &str, password: &str, application: &str) -> String {
        let source = if user == "root" { "admin" } else { "im" };
        format!(
            "mongodb://{user}:{password}@{}/im?authSource={source}&directConnection=true&readPreference=secondaryPreferred&appName={application}",
            self.mongod.host(),
        )
    }

    pub fn as_root(&self) -> String {
        self.uri("root", "root", "root")
    }

    pub fn as_user(&self, user: &str) -> String {
        self.uri(user, PASSWORD, user)
    }

    /// What of the document an administrator runs, first.
    pub fn make_users(&self) {
        let quoted = format!("\"{PASSWORD}\"");
        for (block, _, _) in queries().iter().filter(|(_, by, _)| *by == By::Root) {
            let code = block.code.replace("passwordPrompt()", &quoted);
            tokio::task::block_in_place(|| self.shell.value(&self.as_root(), &code));
        }
    }

    /// `im`, as one of the users.
    pub async fn of_user(&self, user: &str) -> Database {
        let client = Client::with_uri_str(self.as_user(user)).await.unwrap();
        client.database("im")
    }

    pub async fn end(self) {
        self.app.end().await;
        drop(self.mongod);
    }
}

/// The users' password, where the document has `passwordPrompt()`: the one thing that is not run as it is.
pub const PASSWORD: &str = "pass";

/// The indexes are made in the background.
async fn until_indexed(im: &Database) {
    for _ in 0..600 {
        let events = im.collection::<Document>("events");
        if events
            .list_index_names()
            .await
            .unwrap_or_default()
            .iter()
            .any(|name| name == "analysts_events")
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the service makes no indexes for analysts");
}
