//! Tables as kubectl prints them.

/// Columns that are as wide as their widest cell; the last is not filled up.
pub fn columns<R: AsRef<[String]>>(rows: &[R]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let row = row.as_ref();
        for (at, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < row.len() {
                let fill = width(at) - cell.chars().count() + 3;
                text.push_str(&" ".repeat(fill));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A", "B"], ["long", "x"]].map(|r| r.map(str::to_owned));
        assert_eq!(columns(&rows), "A      B\nlong   x\n");
    }
}
