#include "evaluate/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace planish {
namespace {

constexpr double kWidth = 900, kHeight = 600, kLeft = 80, kRight = 170, kTop = 50, kBottom = 60;
constexpr const char* kColors[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                   "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"};

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += c;
    }
  }
  return out;
}

// Where values lie on the page. The y axis counts in powers of ten.
struct Axes {
  double x0, x1, y0, y1;
  double X(double x) const { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight); }
  double Y(double y) const {
    return kHeight - kBottom - (std::log10(y) - y0) / (y1 - y0) * (kHeight - kTop - kBottom);
  }
};

Axes Around(const std::vector<PlotPoint>& points) {
  constexpr double kFar = std::numeric_limits<double>::infinity();
  Axes a{kFar, -kFar, kFar, -kFar};
  for (const PlotPoint& p : points) {
    a.x0 = std::min(a.x0, p.x);
    a.x1 = std::max(a.x1, p.x);
    a.y0 = std::min(a.y0, std::log10(p.y));
    a.y1 = std::max(a.y1, std::log10(p.y));
  }
  const double x_room = std::max(0.05 * (a.x1 - a.x0), 1e-3 * std::max(1.0, std::fabs(a.x1)));
  const double y_room = std::max(0.05 * (a.y1 - a.y0), 0.05);
  return {a.x0 - x_room, a.x1 + x_room, a.y0 - y_room, a.y1 + y_room};
}

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     Escaped(text));
}
std::string Line(double x0, double y0, double x1, double y1, const char* color) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x0,
                     y0, x1, y1, color);
}

std::string Grid(const Axes& a) {
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  std::string svg;
  const double range = a.x1 - a.x0;
  const double step = range > 4 ? 1.0 : range > 1 ? 0.5 : std::pow(10.0, std::floor(std::log10(range)));
  for (int k = 0; k < 40; ++k) {
    const double x = (std::ceil(a.x0 / step) + k) * step;
    if (x > a.x1) break;
    svg += Line(a.X(x), kTop, a.X(x), bottom, "#ddd") +
           Text(a.X(x), bottom + 18, "middle", fmt::format("{:.3g}", x));
  }
  for (int power = static_cast<int>(std::floor(a.y0)); power <= static_cast<int>(std::ceil(a.y1)); ++power) {
    for (const int digit : {1, 2, 5}) {
      const double y = digit * std::pow(10.0, power);
      if (std::log10(y) < a.y0 || std::log10(y) > a.y1) continue;
      svg += Line(kLeft, a.Y(y), right, a.Y(y), "#ddd") +
             Text(kLeft - 8, a.Y(y) + 4, "end", fmt::format("{:.3g}", y));
    }
  }
  return svg + Line(kLeft, bottom, right, bottom, "#000") + Line(kLeft, kTop, kLeft, bottom, "#000");
}

// Points from left to right, each lower than all before.
std::string Front(const Axes& a, std::vector<PlotPoint> points) {
  std::ranges::stable_sort(
      points, [](const PlotPoint& p, const PlotPoint& q) { return p.x < q.x || (p.x == q.x && p.y < q.y); });
  std::string path;
  double lowest = std::numeric_limits<double>::infinity();
  for (const PlotPoint& p : points) {
    if (p.y >= lowest) continue;
    lowest = p.y;
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", a.X(p.x), a.Y(p.y));
  }
  return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>\n",
                     path);
}

}  // namespace

Result<std::string> PlotSvg(const Plot& plot) {
  std::vector<PlotPoint> all;
  for (const PlotSeries& series : plot.series) {
    for (const PlotPoint& p : series.points) {
      if (!std::isfinite(p.x) || !std::isfinite(p.y) || p.y <= 0) {
        return InputError(fmt::format("plot: point '{}' at ({}, {}); expected finite numbers and y > 0",
                                      p.label, p.x, p.y));
      }
      all.push_back(p);
    }
  }
  if (all.empty()) return InputError("plot: no points");
  const Axes a = Around(all);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kWidth, kHeight);
  svg += Text(kWidth / 2, 24, "middle", plot.title) + Grid(a) + Front(a, all);
  svg += Text((kLeft + kWidth - kRight) / 2, kHeight - 16, "middle", plot.x_label);
  svg += fmt::format("<g transform=\"rotate(-90 18 {0})\">{1}</g>\n", kHeight / 2,
                     Text(18, kHeight / 2, "middle", plot.y_label));
  for (size_t s = 0; s < plot.series.size(); ++s) {
    const char* color = kColors[s % std::size(kColors)];
    for (const PlotPoint& p : plot.series[s].points) {
      svg +=
          fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>{}</title></circle>\n",
                      a.X(p.x), a.Y(p.y), color, Escaped(p.label));
    }
    const double y = kTop + 18 * static_cast<double>(s);
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"/>\n", kWidth - kRight + 20, y,
                       color);
    svg += Text(kWidth - kRight + 30, y + 4, "start", plot.series[s].name);
  }
  return svg + "</svg>\n";
}

}  // namespace planish
