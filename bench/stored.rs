//! What is in MongoDB after a measurement.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use im_callback::store::documents::Write;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use serde_json::Value;

use crate::Bench;
use crate::app::{App, Callback};
use crate::callbacks::{Kind, Stored, kind};
use crate::servers::Who;

/// What goes to the spool, for a stall of MongoDB, is stored a little later.
pub fn eventually<T: PartialEq + Debug>(found: impl Fn() -> T, wanted: &T) {
    let until = Instant::now() + Duration::from_secs(60);
    while found() != *wanted && Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(found(), *wanted);
}

impl Bench {
    pub fn collection(&self, database: &str, name: &str) -> Collection<Document> {
        self.client.database(database).collection(name)
    }

    /// Drops a database, and waits so that the next measurement does not pay for it.
    pub fn drop_database(&self, name: &str) {
        let database = self.client.database(name);
        self.runtime
            .block_on(async { database.drop().await })
            .unwrap();
        self.checkpoint();
    }

    /// Lets MongoDB write to disk what it has only in memory and in its journal.
    pub fn checkpoint(&self) {
        let admin = self.client.database("admin");
        let checkpoint = admin.run_command(doc! { "fsync": 1 });
        self.runtime.block_on(async { checkpoint.await }).unwrap();
    }

    pub fn count(&self, database: &str, name: &str, filter: Document) -> u64 {
        let collection = self.collection(database, name);
        let count = collection.count_documents(filter);
        self.runtime.block_on(async { count.await }).unwrap()
    }

    /// All that was acknowledged is there, once. The service must still run.
    pub fn check_stored(&self, who: Who, database: &str, numbers: &[usize]) {
        let count = |name, filter| self.count(database, name, filter);
        let wanted = Stored::of(numbers.iter().copied());
        match who {
            Who::Service => {
                let found = || Stored {
                    messages: count("messages", doc! {}),
                    unread: count("messages", doc! { "state": 0 }),
                    events: count("events", doc! {}),
                    read_marks: count("read_marks", doc! {}),
                };
                eventually(found, &wanted);
            }
            // They keep no receipts, and lose those that overtake their message.
            Who::Express | Who::Rust => {
                let logins = numbers.iter().filter(|n| kind(**n) == Kind::Login).count();
                let found = (count("messages", doc! {}), count("logins", doc! {}));
                assert_eq!(found, (wanted.messages, logins as u64), "{}", who.name());
            }
            Who::NoOp => {}
        }
    }
}

impl App {
    /// The document of a message, in the service's own shape.
    pub fn document(&self, message: &Value) -> RawDocumentBuf {
        match self.writes(&Callback::new(message.to_string())).pop() {
            Some(Write::Message(message)) => message.document,
            _ => panic!("a message is one document"),
        }
    }
}
