// What the guide's sketch uses of Arduino, for this computer. Time stands still but for delay().
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

constexpr int A0 = 17;

class String : public std::string {
 public:
  String() {}
  String(const char *text) : std::string(text) {}
  String(const std::string &text) : std::string(text) {}
  explicit String(unsigned long number) : std::string(std::to_string(number)) {}
  explicit String(long number) : std::string(std::to_string(number)) {}
  explicit String(float number, unsigned int digits = 2) {
    char text[40];
    std::snprintf(text, sizeof text, "%.*f", int(digits), double(number));
    assign(text);
  }
  long toInt() const { return std::atol(c_str()); }
};
inline String operator+(const String &a, const String &b) {
  return String(static_cast<const std::string &>(a) + static_cast<const std::string &>(b));
}
inline String operator+(const String &a, const char *b) { return a + String(b); }

inline unsigned long now_ms = 0;
inline unsigned long millis() { return now_ms; }
inline void delay(unsigned long milliseconds) { now_ms += milliseconds; }
inline int analogRead(int) {
  static int value = 200;
  return value++;
}
inline long random(long end) { return std::random_device()() % end; }
