//! Where a call goes: the five routes of the partner API, the token endpoint, or nowhere.

use axum::http::Method;

use super::faults::Route;

/// The collection of webhooks.
pub const WEBHOOKS: &str = "/partner/v1/webhooks";

/// Where a call goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Create,
    List,
    Patch(&'a str),
    Delete(&'a str),
    /// One webhook is to be read, which the documents do not have.
    GetOne(&'a str),
    Test(&'a str),
    Token,
    /// The path exists, but not with this method.
    WrongMethod,
    Unknown,
}

impl<'a> Target<'a> {
    /// The target of a method and a path.
    pub fn of(method: &Method, path: &'a str) -> Self {
        if path == "/oauth/token" {
            return match *method {
                Method::POST => Target::Token,
                _ => Target::WrongMethod,
            };
        }
        let Some(rest) = path.strip_prefix(WEBHOOKS) else {
            return Target::Unknown;
        };
        let segments: Vec<&str> = rest.split('/').collect();
        match (segments.as_slice(), method.as_str()) {
            ([""], "POST") => Target::Create,
            ([""], "GET") => Target::List,
            ([""], _) => Target::WrongMethod,
            (["", id], "PATCH") if !id.is_empty() => Target::Patch(id),
            (["", id], "DELETE") if !id.is_empty() => Target::Delete(id),
            (["", id], "GET") if !id.is_empty() => Target::GetOne(id),
            (["", id, "test"], "POST") if !id.is_empty() => Target::Test(id),
            _ => Target::Unknown,
        }
    }

    /// The route as faults and the ledger name it; none for what is no route.
    pub fn route(&self) -> Option<Route> {
        match self {
            Target::Create => Some(Route::Create),
            Target::List => Some(Route::List),
            Target::Patch(_) => Some(Route::Patch),
            Target::Delete(_) => Some(Route::Delete),
            Target::Test(_) => Some(Route::Test),
            Target::Token => Some(Route::Token),
            Target::GetOne(_) | Target::WrongMethod | Target::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_routes_and_the_token_endpoint_are_told_apart() {
        for (method, path, target) in [
            (Method::POST, "/partner/v1/webhooks", Target::Create),
            (Method::GET, "/partner/v1/webhooks", Target::List),
            (
                Method::PATCH,
                "/partner/v1/webhooks/w1",
                Target::Patch("w1"),
            ),
            (
                Method::DELETE,
                "/partner/v1/webhooks/w1",
                Target::Delete("w1"),
            ),
            (
                Method::POST,
                "/partner/v1/webhooks/w1/test",
                Target::Test("w1"),
            ),
            (Method::POST, "/oauth/token", Target::Token),
            (Method::GET, "/oauth/token", Target::WrongMethod),
            (Method::PUT, "/partner/v1/webhooks", Target::WrongMethod),
            (Method::GET, "/partner/v1/webhooks/w1", Target::GetOne("w1")),
            (Method::GET, "/partner/v1/webhooks/", Target::Unknown),
            (Method::PATCH, "/partner/v1/webhooksw1", Target::Unknown),
            (Method::GET, "/partner/v1/sites", Target::Unknown),
        ] {
            assert_eq!(Target::of(&method, path), target, "{method} {path}");
        }
    }
}
