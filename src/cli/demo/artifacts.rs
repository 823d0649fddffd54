//! A small tree of gateway artifacts as a publisher leaves it: APIs with their endpoints, sequences and documents.

use std::io;
use std::path::{Path, PathBuf};

/// What every gateway has from the start.
const SHIPPED: [&str; 8] = [
    "synapse.xml",
    "registry.xml",
    "sequences/main.xml",
    "sequences/fault.xml",
    "sequences/_auth_failure_handler_.xml",
    "sequences/_throttle_out_handler_.xml",
    "api/_TokenAPI_.xml",
    "proxy-services/WorkflowCallbackService.xml",
];

/// A path below a root and what it holds.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) content: String,
}

/// One API: several files that belong together.
#[derive(Clone, Debug)]
pub(super) struct Api {
    name: String,
    resources: usize,
}

/// Writes the shipped artifacts and `count` APIs.
pub(super) fn generate(root: &Path, count: usize) -> io::Result<Vec<Api>> {
    for name in SHIPPED {
        let content = format!("<definitions xmlns=\"http://ws.apache.org/ns/synapse\" name=\"{name}\"/>\n");
        write(root, &File { path: Path::new("default").join(name), content })?;
    }
    // Most APIs are small, some are large.
    let apis: Vec<Api> =
        (0..count).map(|number| Api::new(&format!("Service{number}"), 2 + number * 7 % 23)).collect();
    for api in &apis {
        api.create(root)?;
    }
    Ok(apis)
}

impl Api {
    pub(super) fn new(name: &str, resources: usize) -> Self {
        Self { name: name.to_owned(), resources }
    }

    /// Writes its files in the order in which a gateway needs them.
    pub(super) fn create(&self, root: &Path) -> io::Result<Vec<File>> {
        let files = self.files("created");
        files.iter().try_for_each(|file| write(root, file))?;
        Ok(files)
    }

    /// Writes the API itself anew, with a word that was not there before.
    pub(super) fn edit(&self, root: &Path, word: &str) -> io::Result<File> {
        let file = self.api(word);
        write(root, &file)?;
        Ok(file)
    }

    /// The API itself as [`Api::create`] wrote it.
    pub(super) fn created(&self) -> File {
        self.api("created")
    }

    /// Deletes its files.
    pub(super) fn delete(&self, root: &Path) -> io::Result<Vec<PathBuf>> {
        let paths: Vec<PathBuf> = self.files("").into_iter().map(|file| file.path).collect();
        paths.iter().try_for_each(|path| std::fs::remove_file(root.join(path)))?;
        Ok(paths)
    }

    fn files(&self, word: &str) -> Vec<File> {
        let mut files = vec![self.document()];
        for kind in ["production", "sandbox"] {
            let name = format!("{}--v1.0.0_API{kind}Endpoint", self.name);
            files.push(File {
                path: format!("default/endpoints/{name}.xml").into(),
                content: format!(
                    "<endpoint xmlns=\"http://ws.apache.org/ns/synapse\" name=\"{name}\">\n  \
                     <http uri-template=\"https://{kind}.example.org/{}\"/>\n</endpoint>",
                    self.name
                ),
            });
        }
        if self.resources.is_multiple_of(3) {
            let name = format!("admin--{}_v1.0.0--In", self.name);
            files.push(File {
                path: format!("default/sequences/{name}.xml").into(),
                content: format!(
                    "<sequence xmlns=\"http://ws.apache.org/ns/synapse\" name=\"{name}\">\n  \
                     <property name=\"seen\" value=\"true\"/>\n</sequence>"
                ),
            });
        }
        files.push(self.api(word));
        files
    }

    fn api(&self, word: &str) -> File {
        let name = &self.name;
        let mut content = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<api xmlns=\"http://ws.apache.org/ns/synapse\" \
             name=\"admin--{name}\" context=\"/{name}/1.0.0\" version=\"1.0.0\">\n  <!-- {word} -->\n"
        );
        for resource in 0..self.resources {
            content.push_str(&format!(
                "  <resource methods=\"GET POST\" uri-template=\"/items/{resource}/*\" faultSequence=\"fault\">\n    \
                 <inSequence>\n      <property name=\"api.ut.backendRequestTime\" \
                 expression=\"get-property('SYSTEM_TIME')\"/>\n      <send>\n        \
                 <endpoint key=\"{name}--v1.0.0_APIproductionEndpoint\"/>\n      </send>\n    </inSequence>\n    \
                 <outSequence>\n      <send/>\n    </outSequence>\n  </resource>\n"
            ));
        }
        content.push_str("</api>");
        File { path: format!("default/api/admin--{name}_v1.0.0.xml").into(), content }
    }

    /// The API's description as a local entry, by far the largest of its files.
    fn document(&self) -> File {
        let id = &blake3::hash(self.name.as_bytes()).to_hex()[..16];
        let paths = (0..self.resources * 4).map(|resource| {
            format!(
                "\"/items/{resource}\":{{\"get\":{{\"responses\":{{\"200\":{{\"description\":\"ok\"}}}}}}}}"
            )
        });
        let content = format!(
            "<localEntry xmlns=\"http://ws.apache.org/ns/synapse\" key=\"{id}\">{{\"openapi\":\"3.0.1\",\"info\":\
             {{\"title\":\"{}\",\"version\":\"1.0.0\"}},\"paths\":{{{}}}}}</localEntry>",
            self.name,
            paths.collect::<Vec<_>>().join(",")
        );
        File { path: format!("default/local-entries/{id}.xml").into(), content }
    }
}

/// As the product writes: in place.
fn write(root: &Path, file: &File) -> io::Result<()> {
    let path = root.join(&file.path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, &file.content)
}
