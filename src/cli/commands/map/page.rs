//! The page: one file that needs nothing else, and lets nothing else in.

use serde::Serialize;

use crate::domain::map::Map;
use crate::domain::square::Square;
use crate::random;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they need each other.
const SCRIPT: &str =
    concat!(include_str!("page/beside.js"), include_str!("page/picture.js"), include_str!("page/pointer.js"));

/// What its script reads.
#[derive(Serialize)]
struct Data<'m> {
    kinds: [Kind; Square::ALL.len()],
    map: &'m Map,
}

/// An entry of the legend. Its colour is the style's, by the same name.
#[derive(Serialize)]
struct Kind {
    letter: char,
    name: Square,
    means: &'static str,
}

/// The whole of it. The browser runs what has the page's own random word, and asks nobody for anything.
///
/// # Errors
/// There is no randomness.
pub(super) fn page(map: &Map) -> anyhow::Result<String> {
    let kinds = Square::ALL.map(|name| Kind { letter: name.letter(), name, means: name.means() });
    // A name may hold `</script>` or `<!--`: no text of the data ends what it stands in.
    let data = serde_json::to_string(&Data { kinds, map })?.replace('<', "\\u003c");
    let nonce = format!("{:016x}{:016x}", random::number()?, random::number()?);
    let page = PAGE.replace("{nonce}", &nonce).replace("{style}", STYLE).replace("{script}", SCRIPT);
    Ok(page.replacen("{data}", &data, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_square_has_its_colours_light_and_dark() {
        let [light, dark] = STYLE.split_once("prefers-color-scheme: dark").map(|(a, b)| [a, b]).unwrap();
        for square in Square::ALL {
            for name in [format!("--{square}:"), format!("--{square}-ink:")] {
                assert!(light.contains(&name) && dark.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn each_place_of_the_page_is_filled_once() {
        let map = Map { time: 0, instance: None, hosts: Vec::new(), enis: Vec::new(), subnets: Vec::new() };
        let page = page(&map).unwrap();
        for (place, times) in [("{style}", 1), ("{script}", 1), ("{data}", 1), ("{nonce}", 5)] {
            assert_eq!(PAGE.matches(place).count(), times, "{place}");
            assert!(!page.contains(place), "{place}");
        }
        assert!(!STYLE.contains('<') && !SCRIPT.contains("</"), "they end where the page says");
    }
}
