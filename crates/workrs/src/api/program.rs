//! What a job is to run, and where: made of the request, the script and the image.

use workrs_core::{
    image::{ImageDigest, ImageSettings},
    spec::command_for_script,
};

use super::{Problem, SubmitRequest};

/// A script as far as it tells how it is run.
pub(super) struct Script {
    /// Its file name.
    pub name: String,
    /// Its first bytes.
    pub head: Vec<u8>,
}

/// The image that a job is to run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenImage {
    /// As it was asked for, whole.
    pub name: String,
    /// Which that is.
    pub digest: ImageDigest,
    /// The processor architecture that it is for, in Rust's words.
    pub arch: String,
    /// How programs are started in it.
    pub settings: ImageSettings,
}

/// What a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the job is called unless somebody says otherwise.
    pub default_name: String,
    /// Where it starts; `None` means in the job's folder.
    pub folder: Option<String>,
    /// `None` means the node's own programs.
    pub image: Option<ChosenImage>,
}

impl Program {
    /// A script is run by what it is, in the job's folder. A command follows the entry point of the image, as `docker run`
    /// has it, and without one the image's own is run; it starts where the image says unless files were handed over.
    pub(super) fn new(
        request: &SubmitRequest,
        script: Option<&Script>,
        has_inputs: bool,
        image: Option<&ChosenImage>,
    ) -> Result<Self, Problem> {
        let (command, default_name, folder) = match (script, image) {
            (Some(_), _) if !request.command.is_empty() => {
                return Err(Problem::invalid("command", "give a script or a command, not both"));
            }
            (Some(_), _) if request.entrypoint.is_some() => {
                return Err(Problem::invalid("entrypoint", "a script is run by what it is, not by an entry point"));
            }
            (Some(script), _) => {
                (command_for_script(&script.name, &script.head, &request.args)?, script.name.clone(), None)
            }
            (None, _) if !request.args.is_empty() => {
                return Err(Problem::invalid("args", "are for scripts; a command carries its own arguments"));
            }
            (None, None) if request.entrypoint.is_some() => {
                return Err(Problem::invalid("entrypoint", "goes with an image; give one, or a command alone"));
            }
            (None, None) => (request.command.clone(), base_name(&request.command), None),
            (None, Some(image)) => {
                let command = in_image(request, &image.settings);
                let name = base_name(&command);
                (command, name, image.settings.folder.as_deref().filter(|_| !has_inputs).map(absolute))
            }
        };
        if command.is_empty() {
            return Err(nothing_to_run(request, image));
        }
        Ok(Self { command, default_name, folder, image: image.cloned() })
    }
}

fn in_image(request: &SubmitRequest, settings: &ImageSettings) -> Vec<String> {
    match request.entrypoint.as_deref() {
        None => settings.command_for(&request.command),
        // As with `docker run`, what the image has for its own entry point is no argument of another.
        Some("") => request.command.clone(),
        Some(program) => [program.to_owned()].into_iter().chain(request.command.iter().cloned()).collect(),
    }
}

fn base_name(command: &[String]) -> String {
    command.first().map(|program| program.rsplit('/').next().unwrap_or(program).to_owned()).unwrap_or_default()
}

/// A working folder as images may write it.
fn absolute(folder: &str) -> String {
    if folder.starts_with('/') { folder.to_owned() } else { format!("/{folder}") }
}

fn nothing_to_run(request: &SubmitRequest, image: Option<&ChosenImage>) -> Problem {
    match image {
        None => Problem::invalid("command", "there is nothing to run: give a script or a command"),
        Some(image) if request.entrypoint.is_some() => {
            let detail = format!("there is nothing to run: without the entry point of {} give a command", image.name);
            Problem::invalid("command", detail)
        }
        Some(image) => {
            let detail =
                format!("there is nothing to run: {} does not name a program; give a script or a command", image.name);
            Problem::invalid("command", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(entrypoint: &str, command: &str, folder: Option<&str>) -> ChosenImage {
        let folder = folder.map(str::to_owned);
        let settings = ImageSettings {
            entrypoint: words(entrypoint),
            command: words(command),
            folder,
            ..ImageSettings::default()
        };
        let (name, digest) = ("docker.io/library/a:1".to_owned(), ImageDigest::of_sha256([1; 32]));
        ChosenImage { name, digest, arch: "x86_64".to_owned(), settings }
    }

    fn request(entrypoint: Option<&str>, command: &str) -> SubmitRequest {
        SubmitRequest { entrypoint: entrypoint.map(str::to_owned), command: words(command), ..SubmitRequest::default() }
    }

    #[test]
    fn commands_follow_the_entry_point_as_docker_has_it() {
        let image = image("/bin/run -x", "serve", Some("app"));
        for (entrypoint, command, expect) in [
            (None, "", "/bin/run -x serve"),
            (None, "other y", "/bin/run -x other y"),
            (Some(""), "other y", "other y"),
            (Some("/bin/sh"), "-c true", "/bin/sh -c true"),
            (Some("/bin/sh"), "", "/bin/sh"),
        ] {
            let program = Program::new(&request(entrypoint, command), None, false, Some(&image)).unwrap();
            assert_eq!(program.command, words(expect), "{entrypoint:?} {command:?}");
            assert_eq!(program.folder.as_deref(), Some("/app"));
            assert_eq!(program.image.as_ref(), Some(&image));
        }
        let with_files = Program::new(&request(None, ""), None, true, Some(&image)).unwrap();
        assert_eq!((with_files.default_name.as_str(), with_files.folder), ("run", None), "where the files are");
    }

    #[test]
    fn scripts_are_run_by_what_they_are_in_any_image() {
        let script = Script { name: "a.py".into(), head: b"print(1)".to_vec() };
        let image = image("/bin/run", "serve", Some("/app"));
        for image in [None, Some(&image)] {
            let program = Program::new(&request(None, ""), Some(&script), false, image).unwrap();
            assert_eq!(program.command, ["python3", "./a.py"]);
            assert_eq!((program.default_name.as_str(), program.folder), ("a.py", None));
        }
    }

    #[test]
    fn what_makes_no_program_is_refused_by_its_field() {
        let script = Script { name: "a.py".into(), head: b"print(1)".to_vec() };
        let empty = image("", "", None);
        let with_args = SubmitRequest { args: words("x"), ..request(None, "true") };
        let cases = [
            (request(None, ""), None, None, "command"),
            (request(None, ""), None, Some(&empty), "command"),
            (request(Some(""), ""), None, Some(&empty), "command"),
            (request(None, "true"), Some(&script), None, "command"),
            (request(Some("sh"), ""), Some(&script), Some(&empty), "entrypoint"),
            (request(Some("sh"), "x"), None, None, "entrypoint"),
            (with_args, None, None, "args"),
        ];
        for (request, script, image, expect) in cases {
            let problem = Program::new(&request, script, false, image).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some(expect), "{}", problem.detail);
        }
    }
}
