//! How many streams each user has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::callback::ids::{Account, AppName};

/// An app and one of its users.
type User = (AppName, Account);

/// The streams of users who have any.
#[derive(Clone, Default)]
pub struct PlacesOfUsers(Arc<Mutex<HashMap<User, usize>>>);

/// A place of a user, until it is dropped.
pub struct PlaceOfUser {
    user: User,
    of: PlacesOfUsers,
}

impl PlacesOfUsers {
    fn taken(&self) -> MutexGuard<'_, HashMap<User, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, unless the user has so many.
    pub fn take(&self, user: User, most: usize) -> Option<PlaceOfUser> {
        let mut taken = self.taken();
        let of_user = taken.entry(user.clone()).or_default();
        if *of_user >= most {
            return None;
        }
        *of_user += 1;
        drop(taken);
        let of = self.clone();
        Some(PlaceOfUser { user, of })
    }
}

impl Drop for PlaceOfUser {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        if let Some(of_user) = taken.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_places_and_leaves_nothing_behind() {
        let places = PlacesOfUsers::default();
        let user = |app: &str, name: &str| (AppName::new(app).unwrap(), Account::new(name));
        let of_bob = [(); 2].map(|()| places.take(user("otc", "bob"), 2).unwrap());
        assert!(places.take(user("otc", "bob"), 2).is_none());
        let other = places.take(user("shop", "bob"), 2);
        assert!(other.is_some() && places.take(user("otc", "carl"), 2).is_some());
        drop((of_bob, other));
        assert!(places.taken().is_empty());
    }
}
