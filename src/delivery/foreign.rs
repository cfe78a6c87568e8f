//! Text that others wrote, in a log line, a status or a condition: on one line, bounded, and without credentials.

use super::note::bounded;

/// Stands in the place of what looks like a credential.
const REDACTED: &str = "[redacted]";
/// Stands at the end of what was cut.
const ELLIPSIS: &str = "…";
/// What every JSON Web Token begins with: `{"` in base64.
const TOKEN: &str = "eyJ";
/// The shortest text after [`TOKEN`] that is taken for a token.
const MIN_TOKEN_BYTES: usize = 16;

/// The text on one line, at most `most` bytes, without control characters, without characters that turn the direction
/// of writing, and without bearer tokens.
#[must_use]
pub fn plain(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut is_credential = false;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let word: String = word.chars().filter(|c| !turns(*c)).collect();
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        if is_credential {
            line.push_str(REDACTED);
        } else {
            line.push_str(&without_tokens(&word));
        }
        is_credential = word.to_ascii_lowercase().ends_with("bearer");
        if line.len() > most {
            break;
        }
    }
    if line.len() > most {
        let room = most.saturating_sub(ELLIPSIS.len());
        line.truncate(bounded(&line, room).len());
        line.push_str(ELLIPSIS);
    }
    line
}

/// Whether a character turns the direction of writing, or has no width.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn without_tokens(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(TOKEN) {
        let (before, token) = rest.split_at(at);
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let end = token.find(|c| !is_part(c)).unwrap_or(token.len());
        out.push_str(before);
        if end >= TOKEN.len() + MIN_TOKEN_BYTES {
            out.push_str(REDACTED);
        } else {
            out.push_str(&token[..end]);
        }
        rest = &token[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_one_bounded_line_without_credentials() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        for (text, expected) in [
            ("as it is", "as it is".to_owned()),
            (
                "two\nlines\r\n\tand \u{1b}[31mred\u{0}",
                "two lines and [31mred".to_owned(),
            ),
            ("turned \u{202e}round\u{200b}", "turned round".to_owned()),
            (
                &format!("token {jwt}, seen"),
                "token [redacted], seen".to_owned(),
            ),
            (
                "Authorization: Bearer abc.def x",
                "Authorization: Bearer [redacted] x".to_owned(),
            ),
            ("eyJ is short", "eyJ is short".to_owned()),
            ("", String::new()),
        ] {
            assert_eq!(plain(text, 200), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_is_never_longer_than_it_may_be(text: String, most in 3_usize..80) {
            let line = plain(&text, most);
            proptest::prop_assert!(line.len() <= most && !line.chars().any(char::is_control));
        }
    }
}
