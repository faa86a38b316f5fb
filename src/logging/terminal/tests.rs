use super::*;
use std::fs::File;
use std::io::Read;

/// A drawing on a pseudo terminal, and the screen's end of that.
fn drawing() -> (Arc<Drawing>, File) {
    let size = nix::pty::Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = nix::pty::openpty(&size, None).unwrap();
    let outlet = Outlet::of(&terminal.slave, Box::new(|_| {})).unwrap();
    // The slave stays open inside the outlet.
    let drawing = Drawing::start(Arc::new(outlet)).unwrap();
    (drawing, File::from(terminal.master))
}

/// Reads what is written to the screen until all of the texts have been.
fn wait_for(screen: &mut File, texts: &[&str]) -> String {
    let mut seen = String::new();
    let mut bytes = [0; 4096];
    while !texts.iter().all(|text| seen.contains(text)) {
        let n = screen.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    seen
}

fn line(text: &str) -> Option<Progress> {
    Some(Progress::Line(text.into()))
}

#[test]
fn a_terminal_that_is_off_takes_everything_and_shows_nothing() {
    let terminal = Terminal::off();
    assert!(!terminal.shows_progress());
    terminal.show(line("x"));
}

#[test]
fn progress_is_drawn_and_lines_go_above_it() {
    let (drawing, mut screen) = drawing();
    let terminal = Terminal::on(&drawing, None);
    assert!(terminal.shows_progress());
    terminal.show(Some(Progress::Bar {
        done: 1,
        total: 4,
        text: "snapshot".into(),
    }));
    wait_for(&mut screen, &["]  25% snapshot"]);
    drawing.print(b"a line\r\n");
    let seen = wait_for(&mut screen, &["25% snapshot"]);
    let printed = seen.find("a line").unwrap();
    assert!(
        printed < seen.find("25%").unwrap(),
        "drawn again below: {seen:?}"
    );
    terminal.show(line("stable"));
    wait_for(&mut screen, &["stable"]);
    drawing.end();
}

#[test]
fn each_of_several_tasks_has_its_line_with_its_name() {
    let (drawing, mut screen) = drawing();
    let orders = Terminal::on(&drawing, Some("orders"));
    let users = Terminal::on(&drawing, Some("users"));
    orders.show(line("stable"));
    users.show(line("snapshot"));
    wait_for(&mut screen, &["orders  stable", "users  snapshot"]);
    // One that has nothing to show leaves the other where it is.
    orders.show(None);
    users.show(line("done"));
    wait_for(&mut screen, &["users  done"]);
    orders.show(line("again"));
    wait_for(&mut screen, &["orders  again"]);
    drawing.end();
}

#[test]
fn what_a_peer_said_plays_no_tricks_on_the_terminal() {
    let (drawing, mut screen) = drawing();
    let terminal = Terminal::on(&drawing, None);
    terminal.show(line("waiting: \x1b[2J\u{9b}2J\nforged"));
    wait_for(
        &mut screen,
        &["waiting: \u{fffd}[2J\u{fffd}2J\u{fffd}forged"],
    );
    drawing.end();
}

#[test]
fn the_thread_that_draws_ends_when_told_to() {
    let (drawing, _screen) = drawing();
    Terminal::on(&drawing, None).show(line("x"));
    drawing.end();
    assert!(drawing.thread.lock().unwrap().is_none());
}

#[test]
fn a_terminal_that_hung_up_is_no_longer_drawn_on() {
    let (drawing, screen) = drawing();
    let terminal = Terminal::on(&drawing, None);
    drop(screen);
    drawing.print(b"x\n");
    assert!(!terminal.shows_progress());
    terminal.show(line("x"));
    drawing.end();
}

#[test]
fn the_templates_are_right() {
    for template in [BAR_TEMPLATE, LINE_TEMPLATE] {
        ProgressStyle::with_template(template).unwrap();
    }
}
