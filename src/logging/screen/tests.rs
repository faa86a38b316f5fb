use super::*;
use std::io::Read;

#[test]
fn nothing_is_written_before_the_flush_and_then_all_at_once() {
    let (mut reader, writer) = io::pipe().unwrap();
    let outlet = Arc::new(Outlet::of(&writer, Box::new(|_| {})).unwrap());
    drop(writer);
    let screen = Screen::new(&outlet);
    screen.move_cursor_up(2).unwrap();
    screen.move_cursor_down(0).unwrap();
    screen.clear_line().unwrap();
    screen.write_str("half").unwrap();
    screen.write_line(" done").unwrap();
    assert_eq!(screen.size(), USUAL, "a pipe has no size");
    drop(screen);
    let screen = Screen::new(&outlet);
    screen.move_cursor_right(3).unwrap();
    screen.move_cursor_left(4).unwrap();
    screen.write_str("x").unwrap();
    screen.flush().unwrap();
    screen.flush().unwrap();
    drop((screen, outlet));
    let mut written = String::new();
    reader.read_to_string(&mut written).unwrap();
    assert_eq!(
        written, "\x1b[3C\x1b[4Dx",
        "what was not flushed is not there"
    );
}

#[test]
fn the_size_is_the_terminals() {
    let size = nix::pty::Winsize {
        ws_row: 50,
        ws_col: 132,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = nix::pty::openpty(&size, None).unwrap();
    let outlet = Arc::new(Outlet::of(&terminal.slave, Box::new(|_| {})).unwrap());
    let screen = Screen::new(&outlet);
    assert_eq!((screen.width(), screen.height()), (132, 50));
}
