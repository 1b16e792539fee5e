"""A small drawing as SVG: lines over numbers of something, both axes with marks. Pure."""

import math

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 56, 60
# Okabe and Ito's colours, which people with any sight tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"]
MARKS = 5


def drawn(title, x_name, y_name, lines, is_log=False):
    """`lines` is a list of (name, [(x, y)], is_dashed); points without a y are left out."""
    points = [point for _, line, _ in lines for point in line if point[1] is not None]
    if not points:
        return None
    at = Axes([x for x, _ in points], max(y for _, y in points), is_log)
    text = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            label(LEFT, 22, title, "start"),
            label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_name),
            label(LEFT, TOP - 8, y_name, "start")]
    text += at.marks()
    for place, (name, line, is_dashed) in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        dashes = ' stroke-dasharray="5 4"' if is_dashed else ""
        pairs = " ".join(f"{at.x(x):.1f},{at.y(y):.1f}" for x, y in line if y is not None)
        text.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dashes} '
                    f'points="{pairs}"/>')
        text += [f'<circle cx="{at.x(x):.1f}" cy="{at.y(y):.1f}" r="3" fill="{colour}"/>'
                 for x, y in line if y is not None and not is_dashed]
        text.append(label(LEFT + 12, TOP + 18 + 16 * place, name, "start", colour))
    return "\n".join([*text, "</svg>"]) + "\n"


class Axes:
    def __init__(self, xs, y_max, is_log):
        self.xs, self.is_log = sorted(set(xs)), is_log
        self.low, self.high = self.scaled(self.xs[0]), self.scaled(self.xs[-1])
        step = 10 ** math.floor(math.log10(max(y_max, 1e-9) / MARKS))
        self.step = next(step * times for times in (1, 2, 5, 10) if step * times * MARKS >= y_max)

    def scaled(self, x):
        return math.log10(x) if self.is_log else x

    def x(self, x):
        share = (self.scaled(x) - self.low) / ((self.high - self.low) or 1)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(self, y):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / (self.step * MARKS)

    def marks(self):
        text = []
        for x in self.xs:
            text.append(label(self.x(x), HEIGHT - BOTTOM + 18, f"{x:,}"))
        for count in range(MARKS + 1):
            value, y = count * self.step, self.y(count * self.step)
            text.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" '
                        'stroke="#ddd"/>')
            text.append(label(LEFT - 6, y + 4, f"{value:,.10g}", "end"))
        return text


def label(x, y, text, anchor="middle", colour="black"):
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f"{text}</text>")
