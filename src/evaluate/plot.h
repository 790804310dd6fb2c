// A chart of points as SVG: plain text, no fonts, scripts or files of others.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace planish {

struct PlotPoint {
  double x = 0, y = 0;  // y > 0: its axis is logarithmic
  std::string label;
};
struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;
};
struct Plot {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;
};

// Colors repeat after ten series. A line joins the points that no other has both less x and less y than. The
// same bytes for the same plot. Errors: no point, or one that is not finite or has y <= 0.
Result<std::string> PlotSvg(const Plot& plot);

}  // namespace planish
