//! Who may ask: pictures cost engine time, so on an address that others reach nobody may without a token.

use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::request::{Outcome, Refusal};

/// What a POST needs.
#[derive(Clone, Debug)]
pub enum Access {
    /// Nothing: only this machine reaches us.
    Anybody,
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Bearer(SecretString),
    /// It is refused: others reach this address, and no token is configured.
    Nobody(SocketAddr),
}

impl Access {
    /// As configured.
    pub fn new(http: &crate::config::Http) -> Self {
        match &http.token {
            Some(token) => Access::Bearer(token.clone()),
            None if http.bind.ip().is_loopback() => Access::Anybody,
            None => Access::Nobody(http.bind),
        }
    }

    /// # Errors
    /// 401 or 403, with what to do.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refuse = |status, code, message| Err(Refusal::new(status, code, Outcome::BadImage, message));
        match self {
            // A page from elsewhere, opened in a browser on this machine, can post to loopback addresses too.
            Access::Anybody if is_cross_site(headers) => {
                let message = "requests from pages of other sites need a token: set [http] token_file";
                refuse(403, "cross_site", message.to_owned())
            }
            Access::Anybody => Ok(()),
            Access::Bearer(token) => match bearer(headers) {
                None => {
                    let message =
                        "this needs the header `Authorization: Bearer TOKEN`, with the token of [http]";
                    refuse(401, "token_missing", message.to_owned())
                }
                Some(sent) if !same(sent, token.expose_secret().as_bytes()) => {
                    refuse(401, "token_wrong", "this is not the token of [http]".to_owned())
                }
                Some(_) => Ok(()),
            },
            Access::Nobody(bind) => {
                let message = format!(
                    "others reach {bind}, and no token is configured: set [http] token_file or token_env, or bind 127.0.0.1"
                );
                refuse(403, "token_not_configured", message)
            }
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Fetch metadata (W3C): browsers send it, and pages cannot change it.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Takes as long whatever is sent: digests are compared, all bytes of them.
fn same(sent: &[u8], token: &[u8]) -> bool {
    let (sent, token) = (Sha256::digest(sent), Sha256::digest(token));
    sent.iter().zip(token.iter()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &Access, headers: &[(&'static str, &'static str)]) -> u16 {
        let headers: HeaderMap =
            headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
        access.check(&headers).map_or_else(|refusal| refusal.status, |()| 200)
    }

    #[test]
    fn only_who_has_the_token_is_let_in() {
        let access = Access::Bearer(SecretString::from("s3cret"));
        assert_eq!(status(&access, &[]), 401);
        assert_eq!(status(&access, &[("authorization", "Basic s3cret")]), 401);
        assert_eq!(status(&access, &[("authorization", "Bearer s3cre")]), 401);
        assert_eq!(status(&access, &[("authorization", "Bearer s3crett")]), 401);
        assert_eq!(status(&access, &[("authorization", "bearer  s3cret")]), 200);
        assert!(!format!("{access:?}").contains("s3cret"));
    }

    #[test]
    fn without_a_token_only_this_machine_and_no_foreign_page() {
        assert_eq!(status(&Access::Anybody, &[]), 200);
        assert_eq!(status(&Access::Anybody, &[("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(status(&Access::Anybody, &[("sec-fetch-site", "cross-site")]), 403);
        let refusal = Access::Nobody("0.0.0.0:8080".parse().unwrap()).check(&HeaderMap::new()).unwrap_err();
        assert!(refusal.status == 403 && refusal.message.contains("token_file"), "{refusal:?}");
    }
}
