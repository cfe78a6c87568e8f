//! When a delivery is tried again, and what counts as delivered (guide, "Retry Logic").

use std::time::Duration;

use super::quirks::Success;

/// How long a receiver may take to answer. It is never scaled: receivers are built for it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The pauses between one attempt and the next, counted from the end of the former.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
];

/// The pause after `attempts` failed attempts, scaled; none when it is given up.
pub fn pause_after(attempts: usize, time_scale: f64) -> Option<Duration> {
    let pause = PAUSES.get(attempts.checked_sub(1)?)?;
    Some(Duration::try_from_secs_f64(pause.as_secs_f64() * time_scale).unwrap_or(*pause))
}

/// Whether this status of an answer is a success.
pub fn is_success(status: u16, success: Success) -> bool {
    match success {
        Success::Only200 => status == 200,
        Success::Any2xx => (200..300).contains(&status),
    }
}

/// Whether so many failed attempts in a row disable a webhook.
pub fn disables(failures: u32, disables_after: u32) -> bool {
    disables_after != 0 && failures >= disables_after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_after_5_s_30_s_and_5_min() {
        let pauses: Vec<_> = (0..6).map(|attempts| pause_after(attempts, 1.0)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(
            pauses,
            [None, seconds(5), seconds(30), seconds(300), None, None]
        );
    }

    #[test]
    fn the_scale_shortens_every_pause() {
        assert_eq!(pause_after(2, 0.001), Some(Duration::from_millis(30)));
        assert_eq!(pause_after(3, 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn exactly_200_is_success() {
        for (status, only_200, any_2xx) in [
            (200, true, true),
            (201, false, true),
            (204, false, true),
            (301, false, false),
            (199, false, false),
            (500, false, false),
        ] {
            assert_eq!(is_success(status, Success::Only200), only_200, "{status}");
            assert_eq!(is_success(status, Success::Any2xx), any_2xx, "{status}");
        }
    }

    #[test]
    fn the_third_failure_in_a_row_disables_and_0_means_never() {
        assert!(!disables(2, 3));
        assert!(disables(3, 3));
        assert!(!disables(1000, 0));
    }
}
