//! The cookies of one client.

use std::collections::BTreeMap;

use cookie::{Cookie, time::OffsetDateTime};
use hyper::{
    HeaderMap,
    header::{COOKIE, HeaderValue, SET_COOKIE},
};

/// The cookies of one client for one host: names and values.
///
/// Domain, path and `Secure` are ignored. Every cookie is sent with every request to the host.
#[derive(Debug, Default)]
pub(super) struct Jar {
    cookies: BTreeMap<String, String>,
    /// The cookies in the form that is sent. It is rebuilt when they change.
    header: Option<HeaderValue>,
}

impl Jar {
    /// Adds the `Set-Cookie` fields of an answer. A cookie that is empty, has `Max-Age=0` or has expired is removed.
    /// Unreadable ones are ignored, as in browsers.
    pub(super) fn store(&mut self, headers: &HeaderMap) {
        let mut changed = false;
        for field in headers.get_all(SET_COOKIE) {
            if let Some(cookie) = field.to_str().ok().and_then(|text| Cookie::parse(text).ok()) {
                changed |= self.apply(&cookie);
            }
        }
        if changed {
            self.header = self.render();
        }
    }

    /// Adds the cookies to the header of a request, after the request's own ones.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        let Some(cookies) = &self.header else { return };
        let merged = match headers.get(COOKIE) {
            Some(own) => HeaderValue::from_bytes(&[own.as_bytes(), b"; ", cookies.as_bytes()].concat()).ok(),
            None => Some(cookies.clone()),
        };
        if let Some(value) = merged {
            headers.insert(COOKIE, value);
        }
    }

    /// The value of a cookie.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    fn apply(&mut self, cookie: &Cookie<'_>) -> bool {
        if is_removal(cookie) {
            return self.cookies.remove(cookie.name()).is_some();
        }
        let old = self.cookies.insert(cookie.name().to_owned(), cookie.value().to_owned());
        old.as_deref() != Some(cookie.value())
    }

    fn render(&self) -> Option<HeaderValue> {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { None } else { HeaderValue::from_str(&pairs.join("; ")).ok() }
    }
}

/// Whether a `Set-Cookie` removes a cookie. `Max-Age` has precedence over `Expires` (RFC 6265, section 5.3).
fn is_removal(cookie: &Cookie<'_>) -> bool {
    let expired = match cookie.max_age() {
        Some(age) => !age.is_positive(),
        None => cookie.expires_datetime().is_some_and(|at| at <= OffsetDateTime::now_utc()),
    };
    cookie.value().is_empty() || expired
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(jar: &mut Jar, fields: &[&'static str]) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(SET_COOKIE, HeaderValue::from_static(field));
        }
        jar.store(&headers);
    }

    fn sent(jar: &Jar, own: Option<&'static str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(own) = own {
            headers.insert(COOKIE, HeaderValue::from_static(own));
        }
        jar.add_to(&mut headers);
        headers.get(COOKIE).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn cookies_are_kept_replaced_and_removed() {
        let mut jar = Jar::default();
        assert_eq!(sent(&jar, None), None);
        answer(&mut jar, &["sid=abc; Path=/; HttpOnly", "lang=zh; Max-Age=60"]);
        assert_eq!(sent(&jar, None).as_deref(), Some("lang=zh; sid=abc"));
        answer(&mut jar, &["sid=def"]);
        assert_eq!(sent(&jar, None).as_deref(), Some("lang=zh; sid=def"));
        answer(&mut jar, &["sid=x; Max-Age=0", "lang="]);
        assert_eq!(sent(&jar, None), None);
    }

    #[test]
    fn an_expired_cookie_is_removed_unless_its_max_age_says_otherwise() {
        let mut jar = Jar::default();
        answer(&mut jar, &["a=1", "b=1"]);
        answer(&mut jar, &["a=2; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]);
        answer(&mut jar, &["b=2; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]);
        assert_eq!(sent(&jar, None).as_deref(), Some("b=2"));
    }

    #[test]
    fn the_requests_own_cookies_come_first() {
        let mut jar = Jar::default();
        assert_eq!(sent(&jar, Some("own=1")).as_deref(), Some("own=1"));
        answer(&mut jar, &["sid=abc"]);
        assert_eq!(sent(&jar, Some("own=1")).as_deref(), Some("own=1; sid=abc"));
    }

    #[test]
    fn unreadable_cookies_are_ignored() {
        let mut jar = Jar::default();
        answer(&mut jar, &["no pair", "=nameless", "ok=1"]);
        assert_eq!(sent(&jar, None).as_deref(), Some("ok=1"));
    }
}
