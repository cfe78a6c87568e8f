//! Foreign text: words of CHeKT, of a token endpoint or of a proxy, made safe to show.
//!
//! A server may repeat what it was sent, and a hostile one chooses its words. So whatever it says passes through
//! [`Redactor::clean`] at the edge, in this order: control characters become spaces, every known secret is replaced,
//! and the rest is cut. The order matters: a cut first would leave the beginning of a secret, and a secret with a control
//! character in it would become whole afterwards.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;

use data_encoding::{BASE64, BASE64URL, Encoding, HEXLOWER};
use zeroize::Zeroizing;

/// The most bytes of one foreign text that are shown.
pub const MAX_FOREIGN_BYTES: usize = 1024;
/// The most bytes of a foreign text that are looked at; what follows is not shown.
const MAX_SCANNED_BYTES: usize = 64 * 1024;
/// How many bytes in a row a text must share with a secret to be a part of it: a server may repeat its beginning or its
/// end, or base64 of a name and the secret.
const SHARED_BYTES: usize = 12;
/// A secret with fewer bytes is not searched for: it would be found in every other word.
const MIN_SECRET_BYTES: usize = 4;
/// What every JSON Web Token begins with: `{"` in base64.
const TOKEN: &str = "eyJ";
/// The fewest bytes after [`TOKEN`] that are taken for a token.
const MIN_TOKEN_BYTES: usize = 16;
/// Stands for a secret.
const REDACTED: &str = "(redacted)";
/// Stands at the end of what was cut.
const ELLIPSIS: &str = "…";

/// Text that came from outside and is safe to show: at most [`MAX_FOREIGN_BYTES`], one line, without control characters
/// and known secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignText(String);

impl ForeignText {
    /// Takes a sentence of this program as it is: no server chose its words.
    #[must_use]
    pub fn trusted(text: impl Into<String>) -> Self {
        ForeignText(text.into())
    }

    /// Puts a few words of this program before this text.
    #[must_use]
    pub fn after(self, words: &str) -> Self {
        ForeignText(format!("{words}{}", self.0))
    }
}

impl Deref for ForeignText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ForeignText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ForeignText> for String {
    fn from(text: ForeignText) -> String {
        text.0
    }
}

/// The secrets that must not be shown, in every form in which a server may repeat them.
#[derive(Clone, Default)]
pub struct Redactor {
    /// In lower case: some servers change the case of what they repeat.
    forms: Vec<Zeroizing<Vec<u8>>>,
    /// Hashes of every [`SHARED_BYTES`] bytes in a row of a form.
    parts: HashSet<u64>,
    hasher: RandomState,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(..)")
    }
}

impl Redactor {
    /// Searches for this secret too: as it is, in JSON, percent-encoded, in hexadecimal and in base64.
    #[must_use]
    pub fn and(mut self, secret: &[u8]) -> Self {
        if secret.len() < MIN_SECRET_BYTES {
            return self;
        }
        let text = String::from_utf8_lossy(secret);
        let json = serde_json::Value::from(text.as_ref()).to_string();
        self.add(secret);
        // What `clean` makes of the secret itself.
        self.add(one_line(&text).as_bytes());
        self.add(json.trim_matches('"').as_bytes());
        self.add(&percent(secret, "%20"));
        self.add(&percent(secret, "+"));
        let hexadecimal = HEXLOWER.encode(secret);
        self.add(hexadecimal.as_bytes());
        let digits = hexadecimal.as_bytes().chunks(2);
        let percent: Vec<u8> = digits.flat_map(|byte| [b'%', byte[0], byte[1]]).collect();
        self.add(&percent);
        for encoding in [&BASE64, &BASE64URL] {
            for before in 0..3 {
                self.add(&inner(encoding, secret, before));
            }
        }
        self
    }

    fn add(&mut self, form: &[u8]) {
        let form = Zeroizing::new(form.to_ascii_lowercase());
        if form.len() < MIN_SECRET_BYTES || self.forms.contains(&form) {
            return;
        }
        let hasher = &self.hasher;
        self.parts
            .extend(form.windows(SHARED_BYTES).map(|part| hasher.hash_one(part)));
        self.forms.push(form);
    }

    /// Whether a text holds a whole secret in some form. Shorter ones than [`SHARED_BYTES`] do not count: an id may hold
    /// such a word by chance.
    #[must_use]
    pub fn holds_secret(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let long = self.forms.iter().filter(|form| form.len() >= SHARED_BYTES);
        long.into_iter()
            .any(|form| places(text.as_bytes(), form).next().is_some())
    }

    /// A foreign text as it may be shown.
    #[must_use]
    pub fn clean(&self, text: &str) -> ForeignText {
        let line = without_tokens(&one_line(bounded(text, MAX_SCANNED_BYTES)));
        ForeignText(cut(self.redacted(&line), MAX_FOREIGN_BYTES))
    }

    fn redacted(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        let lower = lower.as_bytes();
        let mut hidden = vec![false; lower.len()];
        let short = self.forms.iter().filter(|form| form.len() < SHARED_BYTES);
        let whole = short.flat_map(|form| places(lower, form).map(|at| at..at + form.len()));
        let parts = lower.windows(SHARED_BYTES).enumerate();
        let parts = parts.filter(|(_, part)| self.parts.contains(&self.hasher.hash_one(part)));
        for place in whole.chain(parts.map(|(at, _)| at..at + SHARED_BYTES)) {
            hidden[place].fill(true);
        }
        let mut shown = String::with_capacity(text.len());
        let mut hiding = false;
        for (at, character) in text.char_indices() {
            let hide = hidden[at..at + character.len_utf8()].contains(&true);
            match (hide, hiding) {
                (false, _) => shown.push(character),
                (true, false) => shown.push_str(REDACTED),
                (true, true) => {}
            }
            hiding = hide;
        }
        shown
    }
}

fn places(text: &[u8], part: &[u8]) -> impl Iterator<Item = usize> {
    let windows = text.windows(part.len()).enumerate();
    windows.filter_map(move |(at, window)| (window == part).then_some(at))
}

/// A text of others as one line of at most `most` bytes, where no secret is known that it could hold: without control
/// characters and bearer tokens.
#[must_use]
pub fn plain(text: &str, most: usize) -> String {
    let line = without_tokens(&one_line(bounded(text, MAX_SCANNED_BYTES)));
    cut(line, most)
}

/// The base64 of a secret behind `before` other bytes, without the characters that other bytes decide as well.
fn inner(encoding: &Encoding, secret: &[u8], before: usize) -> Vec<u8> {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.extend_from_slice(secret);
    let whole = bytes.len() * 8 / 6;
    let text = encoding.encode(&bytes);
    let first = (before * 8).div_ceil(6);
    text.as_bytes()[first..whole.max(first)].to_vec()
}

fn percent(secret: &[u8], space: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(secret.len() * 3);
    for byte in secret {
        match byte {
            b' ' => out.extend_from_slice(space.as_bytes()),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => out.push(*byte),
            byte => out.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    out
}

/// Whether a character could change what stands around it: control characters, line separators, and marks that turn the
/// direction of text or have no width.
fn disturbs(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The words of a text on one line, a space between each two.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || disturbs(c));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// The longest beginning of a text that has at most so many bytes and ends with a whole character.
#[must_use]
pub fn bounded(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let room = most.saturating_sub(ELLIPSIS.len());
    format!("{}{ELLIPSIS}", bounded(&text, room))
}

/// A line without bearer tokens, whatever client they belong to.
fn without_tokens(line: &str) -> String {
    let mut out = String::new();
    let mut is_token = false;
    for word in line.split_inclusive(' ') {
        if is_token {
            out.push_str(REDACTED);
            out.push_str(if word.ends_with(' ') { " " } else { "" });
        } else {
            out.push_str(&without_web_tokens(word));
        }
        is_token = word.trim_end().to_ascii_lowercase().ends_with("bearer");
    }
    out
}

fn without_web_tokens(word: &str) -> String {
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
    use data_encoding::{BASE64_NOPAD, HEXUPPER};

    use super::*;

    const SECRET: &str = "tok_live/+9 \"é\" 4f7Qz";

    fn shown(text: &str) -> String {
        let redactor = Redactor::default().and(SECRET.as_bytes()).and(b"short");
        redactor.clean(text).into()
    }

    #[test]
    fn a_secret_is_replaced_in_every_form_in_which_a_server_may_repeat_it() {
        let bytes = SECRET.as_bytes();
        let form = url::form_urlencoded::byte_serialize(bytes).collect::<String>();
        let upper = percent(bytes, "%20").to_ascii_uppercase();
        let basic = format!("my-client:{SECRET}");
        let forms = [
            ("as it is", SECRET.to_owned()),
            ("in upper case", SECRET.to_ascii_uppercase()),
            ("in JSON", serde_json::Value::from(SECRET).to_string()),
            (
                "in JSON in JSON",
                serde_json::Value::from(
                    serde_json::Value::from("tok_live/+9 and more").to_string(),
                )
                .to_string(),
            ),
            ("in a form", form),
            ("in a path", String::from_utf8(upper).unwrap()),
            (
                "in a path, each byte",
                bytes
                    .iter()
                    .fold(String::new(), |all, byte| all + &format!("%{byte:02X}")),
            ),
            ("in hexadecimal", HEXUPPER.encode(bytes)),
            ("in base64", BASE64.encode(bytes)),
            ("in base64 for urls", BASE64URL.encode(bytes)),
            ("in base64 behind a name", BASE64.encode(basic.as_bytes())),
            (
                "in base64 behind another name",
                BASE64_NOPAD.encode(format!("x{basic}").as_bytes()),
            ),
            ("on two lines", SECRET.replace(' ', "\r\n")),
            ("its beginning", format!("{}...", &SECRET[..13])),
            ("its end", format!("...{}", &SECRET[SECRET.len() - 12..])),
            ("a short one", "short".to_owned()),
        ];
        for (what, form) in forms {
            let text = shown(&format!("it was <{form}>, was it"));
            assert!(text.contains("(redacted)"), "{what}: {text}");
            for part in SECRET.as_bytes().windows(8) {
                let part = String::from_utf8_lossy(part).to_lowercase();
                assert!(!text.to_lowercase().contains(&part), "{what}: {text}");
            }
            assert!(text.starts_with("it was <"), "{what}: {text}");
        }
        assert_eq!(shown("nothing of it"), "nothing of it");
    }

    #[test]
    fn a_foreign_text_is_one_line_without_control_characters_and_not_long() {
        assert_eq!(shown("a\n---\nkind:\tx\r\n"), "a --- kind: x");
        assert_eq!(shown("\u{1b}[2Jred\u{7}\u{9b}1m"), "[2Jred 1m");
        assert_eq!(shown("abc\u{202e}def\u{feff}"), "abc def");
        let long = shown(&"é".repeat(100_000));
        assert!(
            long.len() <= MAX_FOREIGN_BYTES && long.ends_with('…'),
            "{}",
            long.len()
        );
        let at_the_cut = format!("{}{SECRET}", "x".repeat(MAX_FOREIGN_BYTES - 8));
        assert!(!shown(&at_the_cut).contains("tok_"));
    }

    #[test]
    fn what_others_wrote_is_one_bounded_line_without_credentials() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        for (text, expected) in [
            ("as it is", "as it is"),
            (
                "two\nlines\r\n\tand \u{1b}[31mred\u{0}",
                "two lines and [31mred",
            ),
            ("turned \u{202e}round\u{200b}", "turned round"),
            (&format!("token {jwt}, seen"), "token (redacted), seen"),
            (
                "Authorization: Bearer abc.def x",
                "Authorization: Bearer (redacted) x",
            ),
            ("Bearer", "Bearer"),
            ("eyJ is short", "eyJ is short"),
            ("", ""),
        ] {
            assert_eq!(plain(text, 200), expected, "{text:?}");
            assert_eq!(&*Redactor::default().clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_id_holds_a_secret_only_if_it_holds_all_of_it() {
        let redactor = Redactor::default().and(b"chekt-webhook_123456").and(b"web");
        assert!(redactor.holds_secret("x-CHEKT-webhook_123456"));
        assert!(!redactor.holds_secret("webhook_12345"));
    }

    proptest::proptest! {
        #[test]
        fn a_line_is_never_longer_than_it_may_be(text: String, most in 3_usize..80) {
            let line = plain(&text, most);
            proptest::prop_assert!(line.len() <= most && !line.chars().any(char::is_control));
        }

        #[test]
        fn no_text_and_no_secret_get_through(secret in proptest::collection::vec(0_u8.., 12..40), before in ".{0,40}", after in ".{0,40}") {
            let redactor = Redactor::default().and(&secret);
            for form in [BASE64.encode(&secret), HEXLOWER.encode(&secret), String::from_utf8_lossy(&secret).into_owned()] {
                let text = redactor.clean(&format!("{before}{form}{after}"));
                let form = one_line(&form);
                proptest::prop_assert!(form.len() < SHARED_BYTES || !text.contains(&form), "{text}");
                proptest::prop_assert!(!text.chars().any(disturbs));
                proptest::prop_assert!(text.len() <= MAX_FOREIGN_BYTES);
            }
        }
    }
}
