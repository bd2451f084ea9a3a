//! What the terminal can show, and is asked to.

use std::env;
use std::io::IsTerminal;

use clap::ColorChoice;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) colors: Colors,
    /// As wide as a line may be.
    pub(super) columns: usize,
    /// Whether other characters than ASCII's show.
    pub(super) is_utf8: bool,
}

/// Which colours there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colors {
    None,
    Sixteen,
    Many,
}

/// Of this process's standard output.
pub(super) fn look(asked: ColorChoice) -> Look {
    let is_terminal = std::io::stdout().is_terminal();
    let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    let [term, colorterm] = ["TERM", "COLORTERM"].map(|name| env::var(name).unwrap_or_default());
    let is_colored = match asked {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && !anstyle_query::no_color() && anstyle_query::term_supports_color(),
    };
    Look {
        colors: if is_colored { colors(&term, &colorterm) } else { Colors::None },
        // A terminal that does not know how wide it is says 0.
        columns: width.filter(|width| is_terminal && *width > 0).unwrap_or(usize::MAX),
        is_utf8: is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].map(|name| env::var(name).unwrap_or_default())),
    }
}

fn colors(term: &str, colorterm: &str) -> Colors {
    let has_many = term.contains("256color") || term.contains("direct") || !colorterm.is_empty();
    if has_many { Colors::Many } else { Colors::Sixteen }
}

/// Whether the locale is of UTF-8: the first of these that is set says so (POSIX, "Environment Variables").
fn is_utf8(of_locale: [String; 3]) -> bool {
    let set = of_locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default().to_lowercase();
    set.ends_with("utf-8") || set.ends_with("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_what_there_is() {
        for (term, colorterm, expected) in [
            ("xterm-256color", "", Colors::Many),
            ("xterm", "truecolor", Colors::Many),
            ("linux", "", Colors::Sixteen),
            ("", "", Colors::Sixteen),
        ] {
            assert_eq!(colors(term, colorterm), expected, "{term} {colorterm}");
        }
        for (locale, expected) in [
            (["", "", "C.UTF-8"], true),
            (["", "en_US.utf8", "C"], true),
            (["C", "en_US.UTF-8", "en_US.UTF-8"], false),
            (["", "", ""], false),
        ] {
            assert_eq!(is_utf8(locale.map(str::to_owned)), expected, "{locale:?}");
        }
    }
}
