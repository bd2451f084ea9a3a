//! In which of Prometheus's formats figures are shown: what the header Accept wants most (RFC 9110, 12.5.1).

use prometheus_client::encoding::prometheus_text;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4, which more programs read.
    Text,
}

impl Format {
    /// The one that these headers Accept ask for. OpenMetrics is for those who name it, and who want the other no more.
    pub fn wanted<'h>(accept: impl IntoIterator<Item = &'h str>) -> Self {
        let (mut open, mut text, mut some_text, mut any) = (None, None, None, None);
        for range in accept.into_iter().flat_map(|header| header.split(',')) {
            let (kind, weight) = weighed(range);
            let known = match kind.as_str() {
                "application/openmetrics-text" => &mut open,
                "text/plain" => &mut text,
                "text/*" => &mut some_text,
                "*/*" => &mut any,
                _ => continue,
            };
            *known = weight.max(*known);
        }
        let text = text.or(some_text).or(any).unwrap_or(0);
        if open.is_some_and(|open| open > 0 && open >= text) { Self::OpenMetrics } else { Self::Text }
    }

    /// For the header Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// A range of media, in small letters, and how much it is wanted, in thousandths; none: nobody can read how much.
fn weighed(range: &str) -> (String, Option<u16>) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let weight = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    (kind, weight.map_or(Some(1000), |(_, weight)| thousandths(weight.trim())))
}

fn thousandths(weight: &str) -> Option<u16> {
    let (whole, rest) = weight.split_once('.').unwrap_or((weight, ""));
    let is_fit = matches!(whole, "0" | "1") && rest.len() <= 3 && rest.bytes().all(|digit| digit.is_ascii_digit());
    let thousandths = format!("{whole}{rest:0<3}").parse().ok().filter(|_| is_fit)?;
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_that_is_wanted_most() {
        use Format::{OpenMetrics, Text};
        // As Prometheus 2.5 and 3.0 ask.
        let two = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                     application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                     text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (&["text/html, application/json"], Text),
            (&[two], OpenMetrics),
            (&[three], OpenMetrics),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["APPLICATION/OPENMETRICS-TEXT;Q=0.5"], OpenMetrics),
            (&["text/plain", "application/openmetrics-text"], OpenMetrics),
            (&["text/plain;q=0.9,application/openmetrics-text;version=1.0.0;q=0.1"], Text),
            (&["text/*,application/openmetrics-text;q=0.1"], Text),
            (&["application/openmetrics-text;q=0,text/plain"], Text),
            (&["application/openmetrics-text;q=0.000"], Text),
            (&["application/openmetrics-text;q=1.5", "application/openmetrics-text;q=x"], Text),
            (&["text/plain;q=0,application/openmetrics-text; q=0.001"], OpenMetrics),
            (&["application/openmetrics-textual"], Text),
        ] {
            assert_eq!(Format::wanted(accept.iter().copied()), expected, "{accept:?}");
        }
    }
}
