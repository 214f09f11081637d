//! The headers that NetEase and Yuntongxun sign a body with: the same names, with different formulas.

use hex::FromHex;
use md5::{Digest, Md5};
use subtle::{Choice, ConstantTimeEq};

use super::{Head, VerifyError};

/// The header with the body's digest.
pub const MD5: &str = "MD5";
/// The header with the signature.
pub const CHECKSUM: &str = "CheckSum";
/// The header with the time of signing.
pub const CUR_TIME: &str = "CurTime";

/// The headers, unchanged.
pub struct DigestHeaders<'r> {
    /// `MD5`
    pub md5: &'r str,
    /// `CheckSum`
    pub checksum: &'r str,
    /// `CurTime`
    pub cur_time: &'r str,
}

impl<'r> DigestHeaders<'r> {
    /// Whether a request has one of them.
    pub fn has_any(head: &Head<'_>) -> bool {
        let has = |name: &&str| (head.header)(name).is_some();
        [MD5, CHECKSUM, CUR_TIME].iter().any(has)
    }

    /// Reads them from a request.
    ///
    /// # Errors
    /// [`VerifyError::MissingHeader`]
    pub fn find(head: &Head<'r>) -> Result<Self, VerifyError> {
        let needed = |name| (head.header)(name).ok_or(VerifyError::MissingHeader(name));
        Ok(Self {
            md5: needed(MD5)?,
            checksum: needed(CHECKSUM)?,
            cur_time: needed(CUR_TIME)?,
        })
    }

    /// Checks that `MD5` is the body's digest, in constant time.
    ///
    /// # Errors
    /// [`VerifyError::Md5Differs`]
    pub fn check_body(&self, body: &[u8]) -> Result<(), VerifyError> {
        let md5: [u8; 16] = Md5::digest(body).into();
        let sent = <[u8; 16]>::from_hex(self.md5).map_err(|_| VerifyError::Md5Differs)?;
        let is_right = bool::from(md5.ct_eq(&sent));
        is_right.then_some(()).ok_or(VerifyError::Md5Differs)
    }

    /// Whether the signature is right for a spelling of `MD5`. If a sender or a proxy changed its case, the signature
    /// may cover either spelling; both are the same digest.
    pub fn any_spelling(&self, is_right: impl Fn(&str) -> Choice) -> Choice {
        let lower = self.md5.to_ascii_lowercase();
        let found = is_right(&lower);
        if lower == self.md5 {
            found
        } else {
            found | is_right(self.md5)
        }
    }
}
