// Runs the sketch for as many rounds as are asked for.
#include "Arduino.h"

void setup();
void loop();

int main(int, char **words) {
  setup();
  for (int round = std::atoi(words[1]); round > 0; round--) loop();
  std::printf("%lu\n", millis());
}
