//! What is wrong with a configuration, where, and what to do: rendered with the line and a caret.
//!
//! The source text in here is the redacted one ([`redact`](super::redact)); no problem can show a secret.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    Severity, SourceCode, SourceSpan, SpanContents,
};

/// One thing that is wrong, or that the operator should know.
#[derive(Clone)]
pub struct Problem {
    warning: bool,
    message: String,
    /// Where, and what to say at the caret; the first is the main one.
    labels: Vec<(Range<usize>, String)>,
    help: String,
    source: Arc<Text>,
}

impl Problem {
    /// The configuration can be used all the same.
    pub fn is_warning(&self) -> bool {
        self.warning
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The remedy; may be empty.
    pub fn remedy(&self) -> &str {
        &self.help
    }

    /// Sets what stands at the caret.
    pub(super) fn label(&mut self, text: impl Into<String>) -> &mut Self {
        if let Some(first) = self.labels.first_mut() {
            first.1 = text.into();
        }
        self
    }

    /// Points to a second place.
    pub(super) fn also(&mut self, at: Range<usize>, text: impl Into<String>) -> &mut Self {
        self.labels.push((clamp(at, &self.source.text), text.into()));
        self
    }

    /// Sets the remedy.
    pub(super) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = text.into();
        self
    }

    /// With the excerpt from the file; with colours for a terminal, else as plain text that does not depend on
    /// where it goes.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let mut out = String::new();
        let rendered = GraphicalReportHandler::new_themed(theme)
            .with_width(110)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .with_links(false)
            .render_report(&mut out, self);
        // miette fails only on a place outside the text, and `clamp` keeps them inside.
        if rendered.is_err() { format!("{}\n", self.message) } else { out }
    }
}

/// The redacted text of a file.
struct Text {
    name: String,
    text: String,
}

/// miette asks with no context lines where a place is, and with one for what to show: that is the whole lines of
/// the place here, without their neighbours, so that ten problems still fit on a screen.
impl SourceCode for Text {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (mut start, mut end) = (span.offset(), span.offset() + span.len());
        let head = self.text.get(..start).ok_or(MietteError::OutOfBounds)?;
        let tail = self.text.get(end..).ok_or(MietteError::OutOfBounds)?;
        let line_start = head.rfind('\n').map_or(0, |at| at + 1);
        if before > 0 {
            start = line_start;
            end += tail.find('\n').unwrap_or(tail.len());
        }
        let (line, column) = (head.matches('\n').count(), self.text[line_start..start].chars().count());
        let shown = &self.text.as_bytes()[start..end];
        let span = SourceSpan::from(start..end);
        let lines = shown.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Ok(Box::new(MietteSpanContents::new_named(self.name.clone(), shown, span, line, column, lines)))
    }
}

/// A place that certainly is inside the text and on the borders of its characters.
fn clamp(at: Range<usize>, text: &str) -> Range<usize> {
    let start = text.floor_char_boundary(at.start);
    start..text.floor_char_boundary(at.end.max(start))
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem").field("warning", &self.warning).field("message", &self.message).finish()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(if self.warning { Severity::Warning } else { Severity::Error })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        (!self.labels.is_empty()).then_some(&*self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let labels = self.labels.iter().enumerate().map(|(i, (at, text))| {
            let text = (!text.is_empty()).then(|| text.clone());
            if i == 0 {
                LabeledSpan::new_primary_with_span(text, at.clone())
            } else {
                LabeledSpan::new_with_span(text, at.clone())
            }
        });
        Some(Box::new(labels))
    }
}

/// Why a configuration cannot be used: every problem of it, warnings too, in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    problems: Vec<Problem>,
}

impl Report {
    /// All of them, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All of them with their excerpts, and a last line that counts them.
    pub fn render(&self, colour: bool) -> String {
        let mut out: String = self.problems.iter().map(|problem| problem.render(colour) + "\n").collect();
        let warnings = self.problems.iter().filter(|problem| problem.warning).count();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        out += &format!("{}: {}", self.name, count(self.problems.len() - warnings, "error"));
        if warnings > 0 {
            out += &format!(", {}", count(warnings, "warning"));
        }
        out.push('\n');
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// Collects the problems of one file.
pub(super) struct Problems {
    source: Arc<Text>,
    list: Vec<Problem>,
}

impl Problems {
    /// `text` is redacted, byte for byte as long as the original.
    pub(super) fn new(name: &str, text: String) -> Self {
        Problems { source: Arc::new(Text { name: name.to_owned(), text }), list: Vec::new() }
    }

    /// Adds an error at a place in the file.
    pub(super) fn error(&mut self, at: Range<usize>, message: impl Into<String>) -> &mut Problem {
        let at = clamp(at, &self.source.text);
        self.push(false, vec![(at, String::new())], message.into())
    }

    /// Adds a warning at a place in the file.
    pub(super) fn warn(&mut self, at: Range<usize>, message: impl Into<String>) -> &mut Problem {
        let at = clamp(at, &self.source.text);
        self.push(true, vec![(at, String::new())], message.into())
    }

    /// Adds an error about the file as a whole.
    pub(super) fn whole(&mut self, message: impl Into<String>) -> &mut Problem {
        self.push(false, Vec::new(), message.into())
    }

    fn push(&mut self, warning: bool, labels: Vec<(Range<usize>, String)>, message: String) -> &mut Problem {
        self.list.push(Problem {
            warning,
            message,
            labels,
            help: String::new(),
            source: self.source.clone(),
        });
        self.list.last_mut().expect("one was pushed just now")
    }

    pub(super) fn any_error(&self) -> bool {
        self.list.iter().any(|problem| !problem.warning)
    }

    /// In the order of the file; what is about the whole comes first.
    pub(super) fn sorted(mut self) -> Vec<Problem> {
        self.list.sort_by_key(|problem| problem.labels.first().map(|(at, _)| at.start));
        self.list
    }

    pub(super) fn report(self) -> Report {
        Report { name: self.source.name.clone(), problems: self.sorted() }
    }
}
