//! Jobs in images.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use workrs_core::{
    image::{Compression, Image, ImageSettings, MAX_LAYERS},
    job::CheckpointMode,
};
use workrs_engine::{
    Container, ContainerEnd, ContainerSpec, Engine, EngineError, Origin,
    conformance::{self, Output, Subject},
    runc::RuncEngine,
};

use crate::{
    image::{LayerBuilder, Store, image, with_a_shell},
    limits::start,
    suite::{config, leftovers, on_engine, programs, shell, wait_for_line},
};

pub const NODE: &str = "engine-test-elsewhere";

pub fn keeps_the_contract_in_an_image() {
    let folder = tempfile::tempdir_in(Path::new("/var/tmp")).unwrap();
    on_engine(async |engine| {
        let mut store = Store::default();
        let image = with_a_shell(&mut store);
        engine.provide(&image, &store).await.unwrap();
        let subject = Subject {
            engine: &engine,
            folder: folder.path(),
            // Its shell is all that the image has to exhaust memory with.
            programs: conformance::Programs {
                exhaust_memory: || shell("a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done"),
                ..programs()
            },
            image: Some(image),
            leftovers: &leftovers,
        };
        conformance::run(&subject).await;
    });
}

/// Two layers of which the upper takes away and changes, with links where others have folders.
fn image_with_settings(store: &mut Store) -> Arc<Image> {
    let mut lower = LayerBuilder::new();
    lower.programs(&["sh", "sleep", "rm"]);
    // So that no former run has left it unpacked.
    lower.file("nonce", 0o644, 0, format!("{:?}", SystemTime::now()).as_bytes());
    lower.file("etc/passwd", 0o644, 0, b"worker:x:1234:1235::/home/worker:/bin/sh\n");
    lower.file("etc/group", 0o644, 0, b"worker:x:1235:\nextra:x:77:worker\n");
    lower.folder("app", 0o755, 1234).file("app/log", 0o644, 1234, b"made with the image\n");
    lower.file("data/gone", 0o644, 0, b"x").file("data/hidden/one", 0o644, 0, b"x");
    lower.folder("var/run", 0o755, 0).link("run", "var/run").link("tmp", "/private/tmp");
    lower.folder("private/tmp", 0o1777, 0);
    let mut upper = LayerBuilder::new();
    upper.file("nonce", 0o644, 0, format!("{:?}", SystemTime::now()).as_bytes());
    upper.file("data/.wh.gone", 0, 0, b"").file("data/hidden/.wh..wh..opq", 0, 0, b"");
    upper.file("data/hidden/two", 0o644, 0, b"x").file("app/lines", 0o644, 1234, b"first\nsecond\nthird\n");
    upper.file("app/removed", 0o644, 0, b"");
    let layers = vec![store.add(&lower.finish(), Compression::Gzip), store.add(&upper.finish(), Compression::None)];
    let settings = ImageSettings {
        env: vec!["PATH=/bin".to_owned(), "COLOR=blue".to_owned(), "SHAPE=round".to_owned()],
        user: Some("worker".to_owned()),
        folder: Some("/app".to_owned()),
        ..ImageSettings::default()
    };
    image(layers, settings)
}

/// It has files of all layers open while it is moved.
const MOVING: &str = r#"
fail() { echo "$1"; exit 9; }
[ "$(pwd) $COLOR $SHAPE $PATH $HOME" = "/app blue square /bin /home/job" ] || fail "$(pwd) $COLOR $SHAPE $PATH $HOME"
while read key value rest; do
    case $key in
        Uid:) [ "$value" = 1234 ] || fail "uid $value" ;;
        Gid:) [ "$value" = 1235 ] || fail "gid $value" ;;
        Groups:) [ "$value $rest" = "77 " ] || fail "groups $value $rest" ;;
    esac
done </proc/self/status
[ ! -e /data/gone ] && [ ! -e /data/hidden/one ] && [ -e /data/hidden/two ] || fail "the layers are not as they should be"
echo x >/home/job/x && echo x >/job/x && echo x >/tmp/x && [ -e /private/tmp/x ] || fail "cannot write"
exec 3</app/lines 4>>/app/log 5>/app/made
echo scratch >/app/scratch; exec 6</app/scratch; rm /app/scratch /app/removed
read one <&3
echo before >&4
echo ready
while [ ! -e /job/go ]; do sleep 0.02; done
read two <&3; read three <&3; read scratch <&6
echo after >&4; echo made >&5
[ "$one $two $three $scratch" = "first second third scratch" ] || fail "$one $two $three $scratch"
[ ! -e /app/removed ] && [ -e /run/workrs/attempt ] || fail "the root is not as it was left"
while read line; do echo "$line"; done </app/log
while read line; do echo "$line"; done </app/made
exit 7
"#;

fn moving(image: &Arc<Image>, attempt: u32) -> ContainerSpec {
    let mut spec = conformance::spec("moving", attempt, shell(MOVING));
    spec.image = Some(image.clone());
    "/app".clone_into(&mut spec.folder);
    spec.env.insert("SHAPE".to_owned(), "square".to_owned());
    spec
}

async fn ends_well(container: &dyn Container, output: &mut Output) {
    std::fs::write(container.job_folder().join("go"), "").unwrap();
    let end = tokio::time::timeout(Duration::from_secs(180), container.wait()).await.unwrap();
    let printed = output.drain();
    assert_eq!((end, printed.as_str()), (ContainerEnd::Exited(7), "made with the image\nbefore\nafter\nmade\n"));
}

pub fn a_job_in_an_image_goes_on_on_another_node() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut store = Store::default();
    let image = image_with_settings(&mut store);
    let mut captured = None;
    on_engine(async |engine| {
        let absent = engine.prepare(&moving(&image, 1), Origin::New).await.err();
        assert!(matches!(&absent, Some(EngineError::Host(why)) if why.contains("not unpacked")), "{absent:?}");
        engine.provide(&image, &store).await.unwrap();
        engine.provide(&image, &store).await.unwrap();
        assert_eq!(store.opened.load(Ordering::SeqCst), 2, "each layer is unpacked once");
        let (container, mut output) = start(&engine, &moving(&image, 1)).await;
        assert_eq!(wait_for_line(&mut output).await, "ready\n");
        assert_eq!(container.job_user(), (0x7000_0000 + 1234, 0x7000_0000 + 1235));
        let capture = crate::suite::capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        assert_eq!((capture.needs.image.as_ref(), capture.needs.mapped.len()), (Some(&image.digest), 0));
        captured = Some(conformance::gather(&capture, CheckpointMode::Full, &folder.path().join("from")));
        let again = folder.path().join("again");
        let again = conformance::gather(&capture, CheckpointMode::Full, &again);
        ends_well(&*container, &mut output).await;
        container.destroy().await.unwrap();
        let mut elsewhere = moving(&image, 2);
        elsewhere.image = None;
        let failed = engine.prepare(&elsewhere, again).await.err();
        assert!(matches!(&failed, Some(EngineError::Unfit(why)) if why.contains(image.digest.as_str())), "{failed:?}");
        assert_eq!(leftovers(), Vec::<String>::new());
    });
    let data = folder.path().join("data");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = RuncEngine::open(config(&data, NODE)).await.unwrap();
        engine.sweep().await.unwrap();
        engine.provide(&image, &store).await.unwrap();
        let container = engine.prepare(&moving(&image, 2), captured.unwrap()).await.unwrap();
        let (mut output, pipe) = Output::new();
        container.restore(pipe).await.unwrap();
        ends_well(&*container, &mut output).await;
        container.destroy().await.unwrap();
    });
}

/// All that is in it: one program without libraries.
fn image_of_one_program(store: &mut Store, settings: ImageSettings) -> Arc<Image> {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("program.c"), folder.path().join("program"));
    let text = r#"
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            char folder[100];
            printf("%s %d %d %d\n", getcwd(folder, 100), getuid(), getgid(), access("made", F_OK) == 0 || creat("made", 0644) < 0);
            return 0;
        }"#;
    std::fs::write(&source, format!("#include <fcntl.h>\n{text}")).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&source).status().unwrap();
    assert!(compiled.success());
    let mut layer = LayerBuilder::new();
    layer.file("program", 0o755, 0, &std::fs::read(&program).unwrap());
    image(vec![store.add(&layer.finish(), Compression::Zstd)], settings)
}

pub fn an_image_of_one_program_is_enough() {
    let mut store = Store::default();
    let of_user = |user: &str| ImageSettings { user: Some(user.to_owned()), ..ImageSettings::default() };
    let image = image_of_one_program(&mut store, of_user("0:7"));
    on_engine(async |engine| {
        engine.provide(&image, &store).await.unwrap();
        for (folder, expected) in
            [("/work/deep", "/work/deep 0 7 0\n"), ("/job/sub", "/job/sub 0 7 0\n"), ("/", "/ 0 7 0\n")]
        {
            let mut spec = conformance::spec("one", 1, vec!["/program".to_owned()]);
            (spec.image, spec.folder) = (Some(image.clone()), folder.to_owned());
            let (container, mut output) = start(&engine, &spec).await;
            assert_eq!(container.wait().await, ContainerEnd::Exited(0));
            assert_eq!(output.drain(), expected);
            container.destroy().await.unwrap();
        }
    });
}

/// A fault of the image or the job, found before or at the start.
async fn cannot_start(engine: &RuncEngine, spec: &ContainerSpec, why: &str) {
    let failed = match engine.prepare(spec, Origin::New).await {
        Err(failed) => failed,
        Ok(container) => {
            let failed = container.start(Output::new().1).await.unwrap_err();
            container.destroy().await.unwrap();
            failed
        }
    };
    assert!(matches!(&failed, EngineError::CannotStart(text) if text.contains(why)), "{failed}");
}

pub fn an_image_that_cannot_be_run_says_why() {
    let mut store = Store::default();
    let settings = ImageSettings::default();
    let good = image_of_one_program(&mut store, settings.clone());
    let foreign = Arc::new(Image { arch: "riscv64".to_owned(), ..(*good).clone() });
    let unknown = Arc::new(Image {
        settings: ImageSettings { user: Some("eve".to_owned()), ..settings.clone() },
        ..(*good).clone()
    });
    let mut tricks = Vec::new();
    for (name, target) in [("proc", "/"), ("dev", "/nowhere"), ("tmp", "/"), ("run", "/nowhere")] {
        let mut layer = LayerBuilder::new();
        layer.link(name, target);
        let layers = vec![good.layers[0].clone(), store.add(&layer.finish(), Compression::None)];
        tricks.push((format!("/{name}"), image(layers, settings.clone())));
    }
    on_engine(async |engine| {
        let spec = |image: &Arc<Image>, folder: &str| {
            let mut spec = conformance::spec("trick", 1, vec!["/program".to_owned()]);
            (spec.image, spec.folder) = (Some(image.clone()), folder.to_owned());
            spec
        };
        engine.provide(&good, &store).await.unwrap();
        let failed = engine.provide(&foreign, &store).await.unwrap_err().to_string();
        assert!(failed.contains("riscv64") && failed.contains(std::env::consts::ARCH), "{failed}");
        cannot_start(&engine, &spec(&foreign, "/job"), "riscv64").await;
        cannot_start(&engine, &spec(&unknown, "/job"), "eve").await;
        cannot_start(&engine, &spec(&good, "/program"), "/program").await;
        for (name, image) in tricks {
            engine.provide(&image, &store).await.unwrap();
            cannot_start(&engine, &spec(&image, "/job"), &name).await;
        }
        assert_eq!(leftovers(), Vec::<String>::new());
    });
}

/// The job's root user owns `/run`, and so may put a link to anywhere in the place of the engine's notes.
pub fn a_root_user_cannot_make_the_engine_write_elsewhere() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut store = Store::default();
    let mut layer = LayerBuilder::new();
    layer.programs(&["sh", "sleep", "mv", "ln"]);
    let settings = ImageSettings { user: Some("0".to_owned()), ..ImageSettings::default() };
    let image = image(vec![store.add(&layer.finish(), Compression::None)], settings);
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let script = format!("mv /run/workrs /run/moved; ln -s {} /run/workrs; echo ready; sleep 100", outside.display());
    on_engine(async |engine| {
        engine.provide(&image, &store).await.unwrap();
        let mut spec = conformance::spec("escape", 1, shell(&script));
        spec.image = Some(image.clone());
        let (container, mut output) = start(&engine, &spec).await;
        assert_eq!(wait_for_line(&mut output).await, "ready\n");
        let capture = crate::suite::capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        let origin = conformance::gather(&capture, CheckpointMode::Full, &folder.path().join("from"));
        container.destroy().await.unwrap();
        "2".clone_into(&mut spec.attempt);
        let failed = engine.prepare(&spec, origin).await.err();
        assert!(matches!(&failed, Some(EngineError::Refused(why)) if why.contains("/run/workrs")), "{failed:?}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(leftovers(), Vec::<String>::new());
    });
}

pub fn an_image_of_as_many_layers_as_may_be_runs() {
    let mut store = Store::default();
    let mut layers = with_a_shell(&mut store).layers.clone();
    for number in layers.len()..MAX_LAYERS {
        let mut layer = LayerBuilder::new();
        layer.file("number", 0o644, 0, format!("{number}\n").as_bytes());
        layers.push(store.add(&layer.finish(), Compression::None));
    }
    let image = image(layers, ImageSettings::default());
    on_engine(async |engine| {
        engine.provide(&image, &store).await.unwrap();
        let mut spec = conformance::spec("many", 1, shell("cat /number"));
        spec.image = Some(image.clone());
        let (container, mut output) = start(&engine, &spec).await;
        assert_eq!(
            (container.wait().await, output.drain()),
            (ContainerEnd::Exited(0), format!("{}\n", MAX_LAYERS - 1))
        );
        container.destroy().await.unwrap();
    });
}
