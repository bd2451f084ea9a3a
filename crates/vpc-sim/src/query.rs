//! The EC2 query protocol: a form in, XML out.
//!
//! Parameters are taken out of the form one by one; what nobody took is an unknown parameter, as it is for AWS.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::errors::ApiError;

/// The version of the API that clients must name.
const VERSION: &str = "2016-11-15";

/// The parameters of one call that are still to be read.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) action: String,
    form: BTreeMap<String, String>,
}

impl Params {
    /// Reads a form body, its action and version.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut params = Self { action: String::new(), form: form_urlencoded::parse(body).into_owned().collect() };
        params.action = params
            .take("Action")
            .ok_or_else(|| ApiError::new(400, "MissingAction", "The request must contain the parameter Action"))?;
        let version = params.require("Version")?;
        if version == VERSION { Ok(params) } else { Err(ApiError::no_such_version(&version)) }
    }

    /// Name and value of each parameter but action and version.
    pub(crate) fn as_sent(&self) -> BTreeMap<String, String> {
        self.form.clone()
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.form.remove(name)
    }

    pub(crate) fn require(&mut self, name: &str) -> Result<String, ApiError> {
        self.take(name).ok_or_else(|| ApiError::missing_parameter(name))
    }

    pub(crate) fn take_bool(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(text) => text.to_ascii_lowercase().parse().map_err(|_| ApiError::bad_value(name, &text)),
        }
    }

    pub(crate) fn take_count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::bad_value(name, &text))
    }

    /// `name.1`, `name.2` and so on, by number.
    pub(crate) fn take_list(&mut self, name: &str) -> Vec<String> {
        let mut numbers: Vec<(u32, String)> = self
            .form
            .keys()
            .filter_map(|key| Some((key.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?, key.clone())))
            .collect();
        numbers.sort_unstable();
        numbers.iter().filter_map(|(_, key)| self.form.remove(key)).collect()
    }

    /// `Filter.1.Name` with `Filter.1.Value.1` and so on.
    pub(crate) fn take_filters(&mut self) -> Result<Vec<Filter>, ApiError> {
        let mut filters = Vec::new();
        for number in 1.. {
            let Some(name) = self.take(&format!("Filter.{number}.Name")) else {
                break;
            };
            let values = self.take_list(&format!("Filter.{number}.Value"));
            if values.is_empty() {
                return Err(ApiError::missing_parameter(&format!("Filter.{number}.Value")));
            }
            if values.len() > 200 {
                return Err(ApiError::too_many_filter_values());
            }
            filters.push(Filter { name, values });
        }
        Ok(filters)
    }

    /// Refuses what is left.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        self.form.keys().next().map_or(Ok(()), |name| Err(ApiError::unknown_parameter(name)))
    }
}

/// One filter: any of the values will do.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) values: Vec<String>,
}

/// An XML document in the making.
#[derive(Debug, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// `<name>text</name>`, escaped.
    pub(crate) fn text(&mut self, name: &str, text: impl Display) {
        let text = text.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.0.push_str(&format!("<{name}>{text}</{name}>"));
    }

    /// `<name>...</name>` around what `inner` writes.
    pub(crate) fn within(&mut self, name: &str, inner: impl FnOnce(&mut Self)) {
        self.0.push_str(&format!("<{name}>"));
        inner(self);
        self.0.push_str(&format!("</{name}>"));
    }

    /// `<name><item>...</item>...</name>`, one item for each of `items`.
    pub(crate) fn list<T>(&mut self, name: &str, items: impl IntoIterator<Item = T>, inner: impl Fn(&mut Self, T)) {
        self.within(name, |xml| {
            for item in items {
                xml.within("item", |xml| inner(xml, item));
            }
        });
    }
}

/// A successful answer to `action`.
pub(crate) fn success(action: &str, request_id: &str, inner: Xml) -> String {
    let Xml(inner) = inner;
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
         xmlns=\"http://ec2.amazonaws.com/doc/{VERSION}/\"><requestId>{request_id}</requestId>{inner}\
         </{action}Response>"
    )
}

/// A refusal.
pub(crate) fn failure(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.within("Response", |xml| {
        xml.within("Errors", |xml| {
            xml.within("Error", |xml| {
                xml.text("Code", &error.code);
                xml.text("Message", &error.message);
            });
        });
        xml.text("RequestID", request_id);
    });
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", xml.0)
}
