//! How the demo speaks: chapters, what was seen to be so, and what a command printed. Colours on a terminal only.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Instant;

/// Standard output, and the time since the demo began.
pub struct Voice {
    colours: bool,
    start: Instant,
    chapter: Cell<usize>,
}

impl Voice {
    /// A voice that starts now.
    pub fn new() -> Self {
        Voice {
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            start: Instant::now(),
            chapter: Cell::new(0),
        }
    }

    /// Begins a chapter: what comes, and why it matters.
    pub fn chapter(&self, title: &str, why: &str) {
        self.chapter.set(self.chapter.get() + 1);
        let title = format!("{}. {title}", self.chapter.get());
        println!("\n{}", self.paint("1", &title));
        for line in wrapped(why, 88) {
            println!("   {}", self.paint("2", &line));
        }
    }

    /// Tells of something that was seen to be so.
    pub fn seen(&self, what: &str) {
        println!("   {} {what}", self.paint("32", "✓"));
    }

    /// A plain line.
    #[allow(clippy::unused_self)] // Whoever speaks has a voice.
    pub fn say(&self, line: &str) {
        println!("{line}");
    }

    /// A command and what it printed.
    pub fn printed(&self, command: &str, output: &str) {
        println!("\n   {}", self.paint("36", &format!("$ {command}")));
        for line in output.trim_end().lines() {
            println!("   {line}");
        }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    /// Tells what went wrong.
    pub fn failed(&self, error: &anyhow::Error) {
        println!("\n   {} {error:#}", self.paint("31", "✗"));
        println!(
            "\n{}",
            self.paint(
                "31",
                "The demo did not go as expected. Everything is stopped."
            )
        );
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|l| l.len() + word.len() < width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
