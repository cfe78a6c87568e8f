//! Foreign text as a label value, so that `kubectl get events -l chekt.com/site-id=...` finds it.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// The longest label value.
const LONGEST: usize = 63;
/// Characters of the hash that stands for what was lost.
const HASH: usize = 10;

/// A label value made of `text`: the characters that a label may hold stay, every other becomes `_`, and the ends
/// are trimmed to letters and digits. Where that leaves nothing, or too much, a hash of the whole text makes the
/// value its own again. An ordinary id stays exactly as it is.
#[must_use]
pub fn value(text: &str) -> String {
    let kept: String = text
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => c,
            _ => '_',
        })
        .collect();
    let kept = trim(&kept);
    if !kept.is_empty() && kept.len() <= LONGEST {
        return kept.to_owned();
    }
    let digest = BASE32_NOPAD
        .encode(&Sha256::digest(text.as_bytes()))
        .to_ascii_lowercase();
    let hash = &digest[..HASH];
    // Only ASCII is left, so every byte is a character boundary.
    let head = trim(&kept[..kept.len().min(LONGEST - HASH - 1)]);
    if head.is_empty() {
        hash.to_owned()
    } else {
        format!("{head}-{hash}")
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_id_stays_as_it_is() {
        for id in ["alarm_xyz789", "1", "device.status_changed", "A-b.c_9"] {
            assert_eq!(value(id), id);
        }
    }

    #[test]
    fn what_was_lost_is_made_up_for_by_a_hash() {
        assert_eq!(value("Front Door"), "Front_Door");
        assert_eq!(value("_x_"), "x");
        let (long, longer) = (value(&"a".repeat(64)), value(&"a".repeat(65)));
        assert_eq!(long.len(), 63);
        assert_ne!(long, longer);
        assert_ne!(value("東京"), value("大阪"));
    }

    proptest::proptest! {
        #[test]
        fn every_value_is_a_label_value(text: String) {
            let value = value(&text);
            proptest::prop_assert!((1..=63).contains(&value.len()));
            proptest::prop_assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            proptest::prop_assert!(value.starts_with(|c: char| c.is_ascii_alphanumeric()));
            proptest::prop_assert!(value.ends_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }
}
