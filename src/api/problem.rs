//! A failed request as `application/problem+json` (RFC 9457), with a `kind` for programs and a `hint` for people.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::bandwidth::LimitError;
use crate::engine::between::CopyError;
use crate::engine::drive::LookupError;
use crate::engine::pins::PinError;
use crate::engine::queues::QueueError;
use crate::engine::sites::SiteError;
use crate::model::PathError;
use crate::state::StateError;

/// The media type of a problem.
pub(super) const KIND: &str = "application/problem+json";

/// What went wrong with a request.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{title}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A fixed word for programs.
    pub kind: String,
    /// What failed and why.
    pub title: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, title: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            kind: kind.to_owned(),
            title: title.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = header::HeaderValue::from_static(KIND);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl From<PathError> for Problem {
    fn from(e: PathError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-path", e.to_string())
            .hint("give a path of the drive, relative to its mount point, such as demo/sq010")
    }
}

impl From<StateError> for Problem {
    fn from(e: StateError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store", e.to_string()).hint("run `backlot doctor`")
    }
}

impl From<LookupError> for Problem {
    fn from(e: LookupError) -> Self {
        match e {
            LookupError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not-found", e.to_string())
                .hint("`backlot ls` shows what is there; `backlot scan` looks at the site again"),
            LookupError::NotDir(_) => Self::new(StatusCode::CONFLICT, "not-a-folder", e.to_string())
                .hint("ask for the folder that it lies in"),
            LookupError::State(e) => e.into(),
        }
    }
}

impl From<PinError> for Problem {
    fn from(e: PinError) -> Self {
        let title = e.to_string();
        match e {
            PinError::Lookup(e) => e.into(),
            PinError::Path(e) => e.into(),
            PinError::State(e) => e.into(),
            PinError::Pattern(..) => Self::new(StatusCode::BAD_REQUEST, "bad-pattern", title)
                .hint("`*` and `?` stay within a name, `**` spans folders, {a,b} and [a-z] are alternatives"),
            PinError::NoProject(_) => {
                Self::new(StatusCode::NOT_FOUND, "not-found", title).hint("`backlot status` shows the projects")
            }
            PinError::NoPin(_) => {
                Self::new(StatusCode::NOT_FOUND, "not-found", title).hint("`backlot pin ls` shows them")
            }
            PinError::FromSettings(_) => Self::new(StatusCode::CONFLICT, "from-settings", title)
                .hint("take it out of `pins` in the section of the project, and mount again"),
            PinError::TooMany => Self::new(StatusCode::CONFLICT, "too-many", title)
                .hint("pin a folder, or use a pattern, in place of many single files"),
            PinError::NoRoom { .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, "does-not-fit", title)
                .hint("nothing was fetched; ask for less, unpin something (`backlot pin ls`), or raise cache.max-size"),
            PinError::TooMuch(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "does-not-fit", title)
                .hint("nothing changed; pin less, unpin something (`backlot pin ls`), or raise cache.max-size"),
        }
    }
}

impl From<CopyError> for Problem {
    fn from(e: CopyError) -> Self {
        let title = e.to_string();
        let not_found = |hint: &str| Self::new(StatusCode::NOT_FOUND, "not-found", title.clone()).hint(hint);
        let bad = || Self::new(StatusCode::BAD_REQUEST, "bad-request", title.clone());
        match e {
            CopyError::Nothing | CopyError::BadPriority(_) | CopyError::Frames(_) | CopyError::NoFrames(_) => bad(),
            CopyError::NoSite(_) => not_found("`backlot site ls` shows the sites"),
            CopyError::SameSite(..) => bad().hint("give another site by --to or --from"),
            CopyError::NoProject(_) => {
                not_found("`backlot status` shows the projects; a path begins with a project's folder")
            }
            CopyError::NotThere(..) | CopyError::NoMatch(..) => {
                not_found("nothing was put into the queue; see the path, and the site by --from")
            }
            CopyError::TooWide(..) => bad().hint("a folder is gone through later, by the job"),
            CopyError::Pattern(..) => {
                bad().hint("`*` and `?` stay within a name, `**` spans folders, {a,b} and [a-z] are alternatives")
            }
            CopyError::NoJob(_) => not_found("`backlot queue jobs --all` shows the jobs"),
            CopyError::Site(_, ref cause) => Self::new(StatusCode::BAD_GATEWAY, "site", title).hint(cause.hint()),
            CopyError::Path(e) => e.into(),
            CopyError::State(e) => e.into(),
        }
    }
}

impl From<LimitError> for Problem {
    fn from(e: LimitError) -> Self {
        let title = e.to_string();
        match e {
            LimitError::NoSite(_) => Self::new(StatusCode::NOT_FOUND, "not-found", title)
                .hint("`backlot limit` shows the sites and their limits"),
            LimitError::Timetable(_) => Self::new(StatusCode::BAD_REQUEST, "bad-timetable", title)
                .hint("a rate is like 10M, a timetable like `08:00,10M 19:00,off`"),
            LimitError::NoRate => Self::new(StatusCode::BAD_REQUEST, "bad-timetable", title)
                .hint("`off` is no limit, `auto` what the settings say; `backlot queue pause` stops uploads"),
        }
    }
}

impl From<SiteError> for Problem {
    fn from(e: SiteError) -> Self {
        let title = e.to_string();
        match e {
            SiteError::NoSite(_) => {
                Self::new(StatusCode::NOT_FOUND, "not-found", title).hint("`backlot site ls` shows the sites")
            }
            SiteError::NoProject(_) => {
                Self::new(StatusCode::BAD_REQUEST, "bad-request", title).hint("give a project, or a path in one")
            }
            SiteError::Lookup(e) => e.into(),
            SiteError::Path(e) => e.into(),
            SiteError::State(e) => e.into(),
            SiteError::Cut => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", title),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(e: QueueError) -> Self {
        let title = e.to_string();
        let not_found = |hint: &str| Self::new(StatusCode::NOT_FOUND, "not-found", title.clone()).hint(hint);
        let bad = |hint: &str| Self::new(StatusCode::BAD_REQUEST, "bad-request", title.clone()).hint(hint);
        match e {
            QueueError::NoProject(_) => not_found("`backlot status` shows the projects"),
            QueueError::NoTask(_) => not_found("`backlot queue ls` shows the tasks; one that is done is gone"),
            QueueError::NoJob(_) => not_found("`backlot queue jobs --all` shows the jobs"),
            QueueError::NotQueued(_) => not_found("`backlot queue ls` shows what is; `backlot ls` how files stand"),
            QueueError::NoConflict(_) => not_found("`backlot conflict ls` shows them"),
            QueueError::Nothing => bad("`backlot queue ls` shows what there is to name"),
            QueueError::BadPriority(_) => bad("the settings' priority is in force while none is set"),
            QueueError::BadCursor(_) => bad("leave `cursor` out to begin anew"),
            QueueError::NotPublished(..) => Self::new(StatusCode::CONFLICT, "not-published", title)
                .hint("what lies in a publish zone goes up: move it there (`zones` of the project in the settings)"),
            QueueError::Unsettled(..) => {
                Self::new(StatusCode::CONFLICT, "unsettled", title).hint("`backlot conflict ls` shows how it stands")
            }
            QueueError::Lookup(e) => e.into(),
            QueueError::Path(e) => e.into(),
            QueueError::State(e) => e.into(),
        }
    }
}
