//! What is in MongoDB after a measurement.

use im_callback::store::documents::Write;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use serde_json::Value;

use crate::Bench;
use crate::app::{App, Callback};
use crate::callbacks::{Kind, Stored, kind};
use crate::servers::Who;

impl Bench {
    pub fn collection(&self, database: &str, name: &str) -> Collection<Document> {
        self.client.database(database).collection(name)
    }

    pub fn drop_database(&self, name: &str) {
        let database = self.client.database(name);
        self.runtime
            .block_on(async { database.drop().await })
            .unwrap();
    }

    pub fn count(&self, database: &str, name: &str, filter: Document) -> u64 {
        let collection = self.collection(database, name);
        let count = collection.count_documents(filter);
        self.runtime.block_on(async { count.await }).unwrap()
    }

    /// All that was acknowledged is there, once.
    pub fn check_stored(&self, who: Who, database: &str, numbers: &[usize]) {
        let count = |name, filter| self.count(database, name, filter);
        let wanted = Stored::of(numbers.iter().copied());
        match who {
            Who::Service => {
                let found = Stored {
                    messages: count("messages", doc! {}),
                    unread: count("messages", doc! { "state": 0 }),
                    events: count("events", doc! {}),
                    read_marks: count("read_marks", doc! {}),
                };
                assert_eq!(found, wanted);
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
