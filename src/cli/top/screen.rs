//! The terminal while a live view is shown.
//!
//! Owns: the terminal's modes, its keys. Refuses to know: what is shown. Invariant: when this is dropped, whatever the
//! reason, the terminal is as it was.

use std::io::{self, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, queue, terminal};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// How soon the thread that reads keys notices that it is needed no more.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that wait; more are dropped.
const KEYS: usize = 16;
/// The size of a terminal that does not say.
const USUAL: (u16, u16) = (80, 24);

/// What somebody did at the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// Enough of it.
    Quit,
    /// It has another size now.
    Resized,
}

/// A terminal that shows a live view.
#[derive(Debug)]
pub(super) struct Screen {
    keys: mpsc::Receiver<Key>,
    is_over: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn open() -> io::Result<Self> {
        let (send, keys) = mpsc::channel(KEYS);
        let is_over = Arc::new(AtomicBool::new(false));
        // From here on dropped if anything fails.
        let screen = Self {
            keys,
            is_over: Arc::clone(&is_over),
        };
        terminal::enable_raw_mode()?;
        queue!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        stdout().flush()?;
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || read_keys(&send, &is_over))?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let (width, height) = terminal::size().unwrap_or(USUAL);
        let or = |n: u16, usual: u16| usize::from(if n == 0 { usual } else { n });
        (or(width, USUAL.0), or(height, USUAL.1))
    }

    /// Shows these lines, cut to the terminal's width.
    pub(super) fn show(&mut self, lines: &[String], width: usize, height: usize) -> io::Result<()> {
        let mut out = stdout().lock();
        for (row, line) in (0_u16..).zip(lines.iter().take(height)) {
            let cut = console::truncate_str(line, width, "…");
            queue!(out, cursor::MoveTo(0, row))?;
            write!(out, "{cut}")?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for the next key that means something; `None` when there can be none any more.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut out = stdout();
        // Whoever closed the terminal needs it no more.
        drop(queue!(out, LeaveAlternateScreen, cursor::Show));
        drop(out.flush());
        drop(terminal::disable_raw_mode());
    }
}

fn read_keys(send: &mpsc::Sender<Key>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let event = match poll(LOOK) {
            Ok(true) => read(),
            Ok(false) => continue,
            Err(e) => Err(e),
        };
        let key = match event {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('q' | 'Q') | KeyCode::Esc => Key::Quit,
                // No signal comes of it while the keys come to us.
                KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
                _ => continue,
            },
            Ok(Event::Resize(..)) => Key::Resized,
            Ok(_) => continue,
            // The terminal is gone.
            Err(_) => return,
        };
        match send.try_send(key) {
            // Too many are as good as one.
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Closed(_)) => return,
        }
    }
}
