//! What a check of `im-callback doctor` found: one line, and the way out.

use serde::Serialize;

/// One line of the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The check's name, which is stable; `docs/doctor.md` lists all.
    #[serde(rename = "check")]
    pub name: &'static str,
    /// How it went.
    pub result: CheckResult,
    /// What was found. Names places, never a secret.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// As it should be.
    Ok,
    /// The service works, but something is to be known or mended.
    Warning,
    /// The service does not work, or not as configured.
    Error,
    /// It could not be checked, mostly since an earlier check failed.
    NotChecked,
}

impl CheckResult {
    /// The result as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::NotChecked => "not checked",
        }
    }
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            result: CheckResult::Ok,
            found: found.into(),
            way_out: None,
        }
    }

    /// Something is to be known or mended.
    pub fn warning(
        name: &'static str,
        found: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            result: CheckResult::Warning,
            way_out: Some(way_out.into()),
            ..Self::ok(name, found)
        }
    }

    /// The service cannot work so.
    pub fn error(name: &'static str, found: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self {
            result: CheckResult::Error,
            ..Self::warning(name, found, way_out)
        }
    }

    /// It could not be checked.
    pub fn not_checked(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            result: CheckResult::NotChecked,
            ..Self::ok(name, why)
        }
    }
}
