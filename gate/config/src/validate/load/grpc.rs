//! The gRPC requests of a load: their methods, messages and statuses.

use std::path::Path;

use memgate_evidence::{error::Result, plan::HttpVersion};
use memgate_verdict::quoted::shorten;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, prost::Message as _};

use super::Around;
use crate::{
    file,
    kinds::StatusCode,
    validate::Validator,
    yaml::{KeyPath, Problem},
};

/// The largest file of descriptors, bytes. Those of large companies' whole interfaces have some megabytes.
const LARGEST_DESCRIPTORS: u64 = 64 << 20;

impl Validator<'_> {
    /// Reads a file of descriptors.
    pub(super) fn descriptors(&self, file: &Path, place: &KeyPath) -> Result<DescriptorPool> {
        let refuse = |what: String| {
            let help =
                "write the file with `protoc --include_imports --descriptor_set_out=FILE` or `buf build -o FILE`";
            self.source.error(place, Problem::new(what, "expected a file of descriptors", help))
        };
        let path = self.resolve(file.to_owned());
        let unreadable = |error| refuse(format!("`{}` cannot be read: {error}", file.display()));
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > LARGEST_DESCRIPTORS {
            return Err(refuse(format!("`{}` is not a regular file of at most 64 MiB", file.display())));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        DescriptorPool::decode(&bytes[..])
            .map_err(|error| refuse(format!("`{}` is no file of descriptors: {error}", file.display())))
    }

    /// The encoded message of a request to this URL.
    pub(super) fn message(
        &self,
        url: &str,
        message: Option<file::Message>,
        around: Around<'_>,
        place: &KeyPath,
    ) -> Result<Vec<u8>> {
        let refuse = |place: &KeyPath, what: String, label: &str, help: &str| {
            Err(self.source.error(place, Problem::new(what, label, help)))
        };
        let method = self.method(url, around, &place.key("grpc"))?;
        let place = place.key("message");
        let Some(message) = message else { return Ok(Vec::new()) };
        match (message.json, message.base64, message.hex) {
            (Some(json), None, None) => {
                let Some(method) = method else {
                    let what = "a message in JSON cannot be encoded without descriptors".to_owned();
                    let help = "write `descriptors: FILE` in the load, or the encoded message as `base64` or `hex`";
                    return refuse(&place.key("json"), what, "without `descriptors`", help);
                };
                let mut reader = serde_json::Deserializer::from_str(&json.0);
                let encoded = DynamicMessage::deserialize(method.input(), &mut reader)
                    .and_then(|message| reader.end().map(|()| message.encode_to_vec()));
                encoded.or_else(|error| {
                    let what = format!("is no `{}` in JSON: {error}", method.input().full_name());
                    let help = "write the fields of that message, such as '{\"name\": \"ann\"}'";
                    refuse(&place.key("json"), what, "expected a message in JSON", help)
                })
            }
            (None, Some(bytes), None) => Ok(bytes.0),
            (None, None, Some(bytes)) => Ok(bytes.0),
            (json, base64, hex) => {
                let count = usize::from(json.is_some()) + usize::from(base64.is_some()) + usize::from(hex.is_some());
                let what = format!("has {count} of `json`, `base64` and `hex`");
                refuse(&place, what, "expected one of them", "write one of `json`, `base64` and `hex`")
            }
        }
    }

    /// The method that a URL names, if there are descriptors.
    fn method(&self, url: &str, around: Around<'_>, place: &KeyPath) -> Result<Option<MethodDescriptor>> {
        let refuse =
            |what: String, label: &str, help: &str| Err(self.source.error(place, Problem::new(what, label, help)));
        if around.transport.http == HttpVersion::Http1 {
            let what = "gRPC needs HTTP/2".to_owned();
            return refuse(what, "without `http: 2`", "write `http: 2` in the load");
        }
        let path = url.split_once("://").and_then(|(_, after)| after.split_once('/')).map_or("", |(_, path)| path);
        let Some((service, method)) = path.split_once('/').filter(|(service, method)| {
            !service.is_empty() && !method.is_empty() && !method.contains('/') && !path.contains('?')
        }) else {
            let what = format!("`{}` names no method", shorten(url));
            let help = "write a URL such as http://127.0.0.1:9090/package.Service/Method";
            return refuse(what, "expected a service and a method", help);
        };
        let Some(descriptors) = around.descriptors else { return Ok(None) };
        let Some(service) = descriptors.get_service_by_name(service) else {
            let known = descriptors.services().map(|service| service.full_name().to_owned()).collect();
            let what = format!("the descriptors have no service `{}`", shorten(service));
            return refuse(what, "not a service that they have", &one_of(known, "service"));
        };
        let Some(method) = service.methods().find(|known| known.name() == method) else {
            let known = service.methods().map(|method| method.name().to_owned()).collect();
            let what = format!("`{}` has no method `{}`", service.full_name(), shorten(method));
            return refuse(what, "not a method that it has", &one_of(known, "method"));
        };
        if method.is_client_streaming() || method.is_server_streaming() {
            let what = format!("`{}` is a stream, and memgate sends one message for one answer", method.full_name());
            return refuse(what, "not a unary method", "load it with a command (`load.command`)");
        }
        Ok(Some(method))
    }

    /// The statuses of gRPC that count as success.
    pub(super) fn grpc_statuses(&self, expect: &[StatusCode], place: &KeyPath) -> Result<Vec<u8>> {
        let code = |(index, status): (usize, &StatusCode)| match *status {
            StatusCode::Grpc(code) => Ok(code),
            StatusCode::Http(_) => {
                let help = "write a name such as `OK` or `NOT_FOUND`";
                let problem = Problem::new("a gRPC request has statuses of gRPC", "expected a name", help);
                Err(self.source.error(&place.index(index), problem))
            }
        };
        expect.iter().enumerate().map(code).collect()
    }
}

/// What to write in place of an unknown name: one of these, of which a few are told.
fn one_of(known: Vec<String>, kind: &str) -> String {
    const TOLD: usize = 10;
    match known.len() {
        0 => format!("name another file under `descriptors`: this one has no {kind}"),
        1..=TOLD => format!("write one of {}", known.join(", ")),
        all => format!("write one of the {all}, such as {}", known[..TOLD].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_are_told() {
        let names = |count: usize| (1..=count).map(|number| format!("S{number}")).collect::<Vec<_>>();
        assert_eq!(one_of(names(0), "service"), "name another file under `descriptors`: this one has no service");
        assert_eq!(one_of(names(2), "service"), "write one of S1, S2");
        let told = one_of(names(500), "method");
        assert_eq!(told, "write one of the 500, such as S1, S2, S3, S4, S5, S6, S7, S8, S9, S10");
    }
}
